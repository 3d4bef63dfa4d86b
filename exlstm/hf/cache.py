"""What transformers calls the cache: here the memory, of one size however long the text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map
from transformers import Cache

from exlstm.nn import MixerState
from exlstm.shapes import Float, Int


class ExlstmCache(Cache):
    """The memory of a batch of texts, to be handed back as `past_key_values`.

    It holds a `MixerState` a block, in float32 (float64 for a float64 model), rows first, what the
    head read last in each row, and the number of tokens seen. All of it is detached: a gradient
    through the memory is what `exlstm.models.XLSTMLanguageModel` is for.

    Args:
        static: Whether later memories are written where the first lies, as compiled decoding on a
            GPU wants it (`generate(cache_implementation="static")`).

    Example:
        >>> from exlstm.hf import ExlstmConfig, ExlstmForCausalLM
        >>> model = ExlstmForCausalLM(ExlstmConfig(vocab_size=257, d_model=32, pattern="ms")).eval()
        >>> cache = model(torch.tensor([[72, 101, 108]])).past_key_values
        >>> cache = model(torch.tensor([[108]]), past_key_values=cache).past_key_values
        >>> cache.get_seq_length(), len(cache), cache.batch_size
        (4, 2, 1)
    """

    def __init__(self, *, static: bool = False) -> None:
        super().__init__(layers=[])
        self.static = static
        self.reset()

    def reset(self) -> None:
        """Forget all, as if new."""
        self.state: tuple[MixerState, ...] | None = None
        self.last: Float[Tensor, "B D"] | None = None
        # A tensor, since code would be compiled anew for each number; one a row, as all else.
        self.seen: Int[Tensor, " B"] | None = None

    def store(
        self, state: tuple[MixerState, ...], last: Float[Tensor, "B D"], num_tokens: int
    ) -> None:
        """Take over the memory after `num_tokens` more tokens, absent ones counted."""
        before = torch.zeros(len(last), dtype=torch.int64, device=last.device)
        seen = (before if self.seen is None else self.seen) + num_tokens
        self._put(tree_map(torch.detach, (state, last, seen)))

    def apply(self, change: Callable[[Tensor], Tensor]) -> None:
        """Replace every tensor by what a function makes of it."""
        if self.state is not None:
            self._put(tree_map(change, (self.state, self.last, self.seen)))

    def _put(self, new: Any) -> None:
        old = (self.state, self.last, self.seen)
        if self.static and old[1] is not None and _like(old[1], new[1]):
            new = tree_map(Tensor.copy_, old, new)
        elif self.static and not torch.compiler.is_compiling():
            tree_map(torch._dynamo.mark_static_address, new)
        self.state, self.last, self.seen = new

    def to(self, *args: Any, **kwargs: Any) -> ExlstmCache:
        """Move to a device, in place; the arguments are those of `Tensor.to`."""
        self.apply(lambda part: part.to(*args, **kwargs))
        return self

    def reorder_cache(self, beam_idx: Int[Tensor, " B"]) -> None:
        """Row b becomes what row `beam_idx[b]` was."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order; a boolean for each row works too."""
        self.apply(lambda part: part[indices.to(part.device)])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row so many times, one after the other."""
        self.apply(lambda part: part.repeat_interleave(repeats, dim=0))

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse to forget the last tokens.

        Raises:
            ValueError: Always, unless there is nothing to remove.
        """
        if tokens_to_remove:
            raise ValueError(
                f"crop({tokens_to_remove}): a memory of one size has no earlier state to go back "
                "to; take a copy.deepcopy of the cache before the tokens"
            )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The number of tokens seen, absent ones counted, by any block."""
        return 0 if self.seen is None else int(self.seen[0])

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: there is no maximum."""
        return -1

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """The length of a mask over what was seen and what comes, and where it begins."""
        return self.get_seq_length() + query_length, 0

    def has_previous_state(
        self, layer_idx: int | None = None, state_idx: int | None = None
    ) -> bool:
        """Whether anything was seen."""
        return self.state is not None

    @property
    def is_initialized(self) -> bool:
        """Whether anything was seen."""
        return self.state is not None

    @property
    def batch_size(self) -> int:
        """The number of rows, -1 where nothing was seen."""
        return -1 if self.last is None else len(self.last)

    @property
    def is_compileable(self) -> bool:
        """Whether the memory stays where it is."""
        return self.static

    @property
    def is_croppable(self) -> bool:
        """False; see `crop`."""
        return False

    def __len__(self) -> int:
        return 0 if self.state is None else len(self.state)

    def __repr__(self) -> str:
        size = sum(part.nbytes for part in tree_flatten(self.state or ())[0])
        rows, tokens = self.batch_size, self.get_seq_length()
        return f"{type(self).__name__}({rows} rows, {tokens} tokens, {size:,} bytes)"


def _like(old: Tensor, new: Tensor) -> bool:
    return (old.shape, old.device) == (new.shape, new.device)
