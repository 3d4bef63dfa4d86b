"""The call of `torch.nn.LSTM`: layouts of the input, layers, directions, states in and out.

`rnn.py` has what is computed in them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from exlstm.nn.layers import check_divides
from exlstm.nn.memory import Memory
from exlstm.nn.sequences import check_flags, last_real, reverse, step_mask, unpack
from exlstm.ops.linear import linear
from exlstm.ops.sequence_parallel import refuse_parts

State = tuple[Tensor, Memory]


class RNN(nn.Module):
    """What `SLSTM`, `MLSTM` and `XLSTM` share with `torch.nn.LSTM`: its constructor and its call.

    A subclass says what one layer computes in one direction.

    Args:
        input_size: Size of a step of the input, F.
        hidden_size: Size of a step of the output, D.
        num_layers: Layers on top of each other.
        bias: Whether the input's projections have a bias.
        batch_first: Whether batched input and output are (B, T, ...), not (T, B, ...).
        dropout: Share of each layer's output but the last's that is dropped in training.
        bidirectional: Whether each layer also runs from the end to the start; the output is both,
            (..., 2 D).
        proj_size: Where positive, the size of a step of the output instead, by a linear map of each
            layer's output. The memory does not pass through it.
        num_heads: Number of heads, H, a divisor of `hidden_size`. `None` is the largest up to 4.

    Raises:
        ValueError: A size is out of range or not divisible as above.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        num_heads: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (
            ("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)
        ):  # fmt: skip
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= proj_size < hidden_size:
            raise ValueError(
                f"proj_size must be 0 (none) or smaller than hidden_size={hidden_size}, "
                f"got {proj_size}"
            )
        if not 0.0 <= dropout <= 1.0:
            raise ValueError(f"dropout must be between 0 and 1, got {dropout}")
        if dropout and num_layers == 1:
            warnings.warn(
                f"dropout={dropout} acts between layers, and num_layers=1 has no between",
                stacklevel=3,
            )
        if num_heads is None:
            num_heads = largest_divisor(hidden_size)
        check_divides("num_heads", num_heads, "hidden_size", hidden_size)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self.num_heads = num_heads

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Any] | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Any, State]:
        """Run over sequences.

        Args:
            input: (T, B, F), or (B, T, F) with `batch_first`; (T, F) is one sequence; or a
                `PackedSequence`; or (T, F) with `cu_seqlens`.
            hx: `(h_n, c_n)` of an earlier call, to continue from. `None` is the empty memory, and
                so is a c_n of zeros in the shape that of an `nn.LSTM` has.
            lengths: Of batched input, how many steps of each row are real, 1 to T.
            mask: Of shape (B, T), or (T,) for one sequence: where False, the step is absent; it
                changes no state, and its output is zero.
            reset: Of the same shape: where True, the memory is emptied before the step.
            cu_seqlens: Where each of N sequences, one after the other in (T, F), begins, and T at
                the end. The state then has N rows.

        Returns:
            The output, laid out as the input, and `(h_n, c_n)`. h_n, (num_layers * directions, B,
            D), is the output of each layer and direction at the last real step of each row, in the
            order of its steps. c_n, a `Memory`, is what is needed to continue.

        Raises:
            ValueError: A shape or value is not as above; the message names it.
        """
        refuse_parts(type(self).__name__)
        if isinstance(input, PackedSequence):
            if not (lengths is None and mask is None and reset is None and cu_seqlens is None):
                raise ValueError(
                    "a PackedSequence has its lengths in it: lengths, mask, reset and cu_seqlens "
                    "must be None"
                )
            x, lengths = pad_packed_sequence(input, batch_first=True)
            y, state = self._run(x, hx, step_mask(x, None, lengths), None)
            return packed_like(input, y, lengths), state
        if cu_seqlens is not None:
            if input.ndim != 2 or lengths is not None:
                raise ValueError(
                    f"cu_seqlens goes with input of shape (T, F) and without lengths, got input "
                    f"{tuple(input.shape)}{'' if lengths is None else ' and lengths'}"
                )
            mask, reset = _batch_of_one(mask, reset)
            check_flags(self, input[None], mask, reset)
            x, mask, reset, real = unpack(input[None], mask, reset, cu_seqlens)
            y, state = self._run(x, hx, mask, reset)
            return y[real], state
        if input.ndim not in (2, 3):
            raise ValueError(f"input must have 2 or 3 dimensions, got {tuple(input.shape)}")
        if input.ndim == 2:
            return self._run_one(input, hx, lengths, mask, reset)
        x = input if self.batch_first else input.transpose(0, 1)
        check_flags(self, x, mask, reset)
        y, state = self._run(x, hx, step_mask(x, mask, lengths), reset)
        # Contiguous, as from nn.LSTM: programs take a view of it.
        return y if self.batch_first else y.transpose(0, 1).contiguous(), state

    def _run_one(self, x, hx, lengths, mask, reset) -> tuple[Tensor, State]:
        """A sequence without a batch dimension; h_n has none either."""
        if hx is not None:
            h, c = _pair(hx)
            hx = (h.unsqueeze(1), c.unsqueeze(1) if isinstance(c, Tensor) else c)
        mask, reset = _batch_of_one(mask, reset)
        check_flags(self, x[None], mask, reset)
        y, (h, c) = self._run(x[None], hx, step_mask(x[None], mask, lengths), reset)
        return y[0], (h[:, 0], c)

    def _run(
        self,
        x: Tensor,
        hx: tuple[Tensor, Any] | None,
        mask: Tensor | None,
        reset: Tensor | None,
    ) -> tuple[Tensor, State]:
        """All layers and directions over (B, T, F)."""
        if x.shape[2] != self.input_size:
            raise ValueError(
                f"input must have input_size={self.input_size} as its last size, got {x.shape[2]}"
            )
        directions = 2 if self.bidirectional else 1
        h, memory = (None, None) if hx is None else self._start(hx, x)
        h_n, c_n = [], []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                index = layer * directions + direction
                steps = reverse(x, mask, reset) if direction else (x, mask, reset)
                before = None if h is None else h[index]
                y, after = self._layer(
                    index, *steps, before, None if memory is None else memory[index]
                )
                h_n.append(last_real(y, *steps[1:], before))
                c_n.append(after)
                outputs.append(y.flip(1) if direction else y)
            x = torch.cat(outputs, -1) if self.bidirectional else outputs[0]
            if layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        return x, (torch.stack(h_n), Memory(c_n))

    def _start(self, hx: tuple[Tensor, Any], x: Tensor) -> tuple[Tensor, Sequence[Any] | None]:
        """The h and the memories to start from, checked; no memories are empty ones."""
        h, c = _pair(hx)
        number = self.num_layers * (2 if self.bidirectional else 1)
        batch = x.shape[0]
        want = (number, batch, self.proj_size or self.hidden_size)
        if tuple(h.shape) != want:
            raise ValueError(f"h of hx must have shape {want}, got {tuple(h.shape)}")
        if not isinstance(c, Tensor):
            if len(c) != number:
                raise ValueError(
                    f"c of hx must have {number} entries, one for each layer and direction, "
                    f"got {len(c)}"
                )
            rows = Memory(c)._first().shape[0]
            if rows != batch:
                raise ValueError(f"c of hx must have {batch} rows, as the input, got {rows}")
            return h, c
        want = (number, batch, self.hidden_size)
        if tuple(c.shape) != want:
            raise ValueError(f"c of hx must be a Memory, or zeros of {want}, got {tuple(c.shape)}")
        # Values are looked at where that stops nothing: in a graph it would be a break.
        if not torch.compiler.is_compiling():
            if c.requires_grad or c.any():
                what = "is not zero" if c.any() else "requires grad"
                raise ValueError(
                    f"c of hx is a tensor that {what}: an xLSTM's memory has a normaliser and a "
                    f"stabiliser too. Zeros are the empty memory; else pass a c_n that came out"
                )
            if not self._starts_from_h() and h.any():
                raise ValueError(
                    f"h of hx is not zero, but c is: no step of {type(self).__name__} with "
                    f"proj_size={self.proj_size} reads h, all its memory is in c"
                )
        return h, None

    def _starts_from_h(self) -> bool:
        """Whether a layer's first step reads the h before it."""
        return False

    def _layer(
        self,
        index: int,
        x: Tensor,
        mask: Tensor | None,
        reset: Tensor | None,
        h: Tensor | None,
        memory: Any,
    ) -> tuple[Tensor, Any]:
        """One layer in one direction, over (B, T, F) in the order of its steps."""
        raise NotImplementedError

    def _inputs(self) -> list[int]:
        """The input's size of each layer and direction."""
        directions = 2 if self.bidirectional else 1
        later = directions * (self.proj_size or self.hidden_size)
        return [self.input_size] * directions + [later] * (directions * (self.num_layers - 1))

    def _suffix(self, index: int) -> str:
        """What the names of a layer's parameters end in, as `nn.LSTM` has it."""
        layer, reverse = divmod(index, 2) if self.bidirectional else (index, 0)
        return f"l{layer}_reverse" if reverse else f"l{layer}"

    def _register(self, index: int, device, dtype, **shapes: tuple[int, ...]) -> None:
        """Make the parameters of a layer, not yet initialised; bias and projection are those here.

        The first axis of `weight_ih` has four parts, and so has the bias.
        """
        if self.bias:
            shapes["bias"] = (4 * self.hidden_size,)
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, self.hidden_size)
        for name, shape in shapes.items():
            parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            self.register_parameter(f"{name}_{self._suffix(index)}", parameter)

    def _parameter(self, name: str, index: int) -> Any:
        return getattr(self, f"{name}_{self._suffix(index)}", None)

    def _project(self, h: Tensor, index: int) -> Tensor:
        return linear(h, self._parameter("weight_hr", index)) if self.proj_size else h

    @property
    def _all_weights(self) -> list[list[str]]:
        """The names of each layer's own parameters; programs loop over them by it."""
        names = [name for name, _ in self.named_parameters(recurse=False)]
        suffixes = [self._suffix(index) for index in range(len(self._inputs()))]
        return [[name for name in names if name.endswith(f"_{end}")] for end in suffixes]

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """Each layer's own parameters."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def flatten_parameters(self) -> None:
        """Nothing: there is no cuDNN buffer to arrange parameters in."""

    def extra_repr(self) -> str:
        defaults = (
            ("num_layers", 1), ("bias", True), ("batch_first", False), ("dropout", 0.0),
            ("bidirectional", False), ("proj_size", 0),
        )  # fmt: skip
        changed = [
            f"{name}={getattr(self, name)}"
            for name, default in defaults
            if getattr(self, name) != default
        ]
        parts = (self.input_size, self.hidden_size, *changed, f"num_heads={self.num_heads}")
        return ", ".join(map(str, parts))


def largest_divisor(size: int, limit: int = 4) -> int:
    """The largest number up to a limit that divides a size."""
    return next(number for number in range(limit, 0, -1) if size % number == 0)


def packed_like(packed: PackedSequence, y: Tensor, lengths: Tensor) -> PackedSequence:
    """(B, T, ...) packed as another sequence is, whose rows may have been sorted for it."""
    if packed.sorted_indices is not None:
        y = y.index_select(0, packed.sorted_indices)
        lengths = lengths.index_select(0, packed.sorted_indices.to(lengths.device))
    data = pack_padded_sequence(y, lengths, batch_first=True).data
    return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)


def _batch_of_one(*flags: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if flag is None else flag[None] for flag in flags)


def _pair(hx: Any) -> tuple[Tensor, Any]:
    if isinstance(hx, Tensor) or len(hx) != 2 or not isinstance(hx[0], Tensor):
        raise ValueError(f"hx must be a tuple (h, c) with a tensor h, got {type(hx).__name__}")
    return hx
