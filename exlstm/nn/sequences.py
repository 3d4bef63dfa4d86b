"""Sequences of different lengths: whatever they come as, layers see which steps are real."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from exlstm.ops.checks import check_steps
from exlstm.ops.sequence_parallel import refuse_parts
from exlstm.shapes import Bool, Float, Int


class SequenceLayer(nn.Module):
    """A layer with a memory: `forward(x, state=None) -> (y, state)`, over real steps only.

    Subclasses implement `steps`, which knows masks and resets; lengths and packed sequences become
    masks here.
    """

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: Any = None,
        *,
        mask: Bool[Tensor, "B T"] | None = None,
        reset: Bool[Tensor, "B T"] | None = None,
        lengths: Int[Tensor, " B"] | Sequence[int] | None = None,
        cu_seqlens: Int[Tensor, " _"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Any]:
        """Run over the sequences.

        Args:
            x: The input.
            state: What an earlier call returned, to continue from; `None` is the empty memory.
            mask: Where False, the step is absent: it changes no state, and its output means
                nothing.
            reset: Where True, the memory is emptied before the step.
            lengths: How many steps of each row are real, from the first, 1 to T.
            cu_seqlens: With x of shape (1, T, D), where each of N sequences in it begins, and T at
                the end: 0, the first length, the sum of the first two, ... The state then has N
                rows. Work and memory are those of N rows as long as the longest; without states,
                one row with `reset` at each beginning costs only its T steps.

        Returns:
            The output, and the state after the last real step of each row.

        Raises:
            ValueError: Masks, resets, lengths or beginnings are not as above.
        """
        check_flags(self, x, mask, reset)
        if cu_seqlens is not None:
            if lengths is not None or x.shape[0] != 1:
                raise ValueError(
                    f"cu_seqlens goes with x of shape (1, T, D) and without lengths, "
                    f"got x {tuple(x.shape)}{'' if lengths is None else ' and lengths'}"
                )
            rows, mask, reset, real = unpack(x, mask, reset, cu_seqlens)
            y, state = self.steps(rows, state, mask, reset)
            return y[real][None], state
        return self.steps(x, state, step_mask(x, mask, lengths), reset)

    def steps(
        self,
        x: Float[Tensor, "B T D"],
        state: Any,
        mask: Bool[Tensor, "B T"] | None,
        reset: Bool[Tensor, "B T"] | None,
    ) -> tuple[Float[Tensor, "B T D"], Any]:
        """Run over the steps where `mask` is True."""
        raise NotImplementedError


def check_flags(
    layer: nn.Module, x: Float[Tensor, "B T D"], mask: Tensor | None, reset: Tensor | None
) -> None:
    """Check masks and resets where they come in; the message names the layer.

    Raises:
        ValueError: One is no bool tensor of shape (B, T).
    """
    sizes = dict(zip("BT", x.shape, strict=False))
    check_steps(type(layer).__name__, sizes, mask=mask, reset=reset)


def step_mask(
    x: Float[Tensor, "B T D"],
    mask: Bool[Tensor, "B T"] | None,
    lengths: Int[Tensor, " B"] | Sequence[int] | None,
) -> Bool[Tensor, "B T"] | None:
    """The steps that are real by both a mask and lengths; `None` if all are.

    Raises:
        ValueError: The lengths are not B whole numbers from 1 to T.
    """
    if lengths is None:
        return mask
    refuse_parts("lengths")
    batch, time = x.shape[:2]
    lengths = torch.as_tensor(lengths, device=x.device)
    if lengths.shape != (batch,) or lengths.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"lengths must be {batch} whole numbers, one a row, "
            f"got {lengths.dtype} {tuple(lengths.shape)}"
        )
    # Values are looked at where that stops nothing: in a graph it would be a break.
    if not torch.compiler.is_compiling() and ((lengths < 1) | (lengths > time)).any():
        raise ValueError(f"lengths must be 1 to T = {time}, got {lengths.tolist()}")
    real = torch.arange(time, device=x.device) < lengths[:, None]
    return real if mask is None else real & mask


def unpack(
    x: Float[Tensor, "1 T D"],
    mask: Bool[Tensor, "1 T"] | None,
    reset: Bool[Tensor, "1 T"] | None,
    cu_seqlens: Int[Tensor, " N+1"],
) -> tuple[Tensor, Tensor, Tensor | None, Bool[Tensor, "N longest"]]:
    """Sequences one after the other as N rows: x, mask and reset of these, and where they lie.

    What lies behind a row's end repeats steps of others and is masked. `y[real]`, with the last of
    what is returned, is the way back.

    Raises:
        ValueError: The beginnings do not go from 0 to T with at least a step each.
    """
    refuse_parts("cu_seqlens")
    total = x.shape[1]
    ends = torch.as_tensor(cu_seqlens, device=x.device)
    lengths = ends.diff()
    fits = ends.ndim == 1 and len(ends) > 1 and ends[0] == 0 and ends[-1] == total
    if not fits or (lengths < 1).any():
        raise ValueError(
            f"cu_seqlens must rise from 0 to T = {total}, each sequence with at least a step, "
            f"got {ends.tolist()}"
        )
    step = torch.arange(int(lengths.max()), device=x.device)
    index = (ends[:-1, None] + step).clamp_max(total - 1)
    real = step < lengths[:, None]
    mask = real if mask is None else real & mask[0, index]
    return x[0, index], mask, None if reset is None else reset[0, index], real


def reverse(
    x: Float[Tensor, "B T D"],
    mask: Bool[Tensor, "B T"] | None,
    reset: Bool[Tensor, "B T"] | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The same steps from the last to the first.

    Padding comes first then, and as it changes no state each row starts at its own end. A sequence
    that began at a step ends there, and so the memory is emptied before the step in front of it.
    """
    if reset is not None:
        reset = torch.cat((reset[:, 1:], torch.zeros_like(reset[:, :1])), 1).flip(1)
    return x.flip(1), None if mask is None else mask.flip(1), reset


def last_real(
    y: Float[Tensor, "B T D"],
    mask: Bool[Tensor, "B T"] | None,
    reset: Bool[Tensor, "B T"] | None,
    before: Float[Tensor, "B D"] | None,
) -> Float[Tensor, "B D"]:
    """The output of each row's last real step; of a row without any, what it was before.

    Zero where the memory was emptied at an absent step after it.
    """
    if mask is None:
        return y[:, -1]
    number = torch.arange(1, y.shape[1] + 1, device=y.device)
    last = (mask * number).amax(1)  # 0 where there is none
    index = (last - 1).clamp_min(0)[:, None, None].expand(-1, 1, y.shape[2])
    found = y.gather(1, index)[:, 0]
    empty = torch.zeros_like(found)
    before = empty if before is None else before.to(found.dtype)
    found = torch.where((last > 0)[:, None], found, before)
    if reset is None:
        return found
    return torch.where(((reset * number).amax(1) > last)[:, None], empty, found)
