"""The memory a run carries from one step to the next, in and out of checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from exlstm.models import XLSTMLanguageModel
from exlstm.train.checkpoint import read_tensors


def gathered(parts: Sequence[Any], gather: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Return the memory of a whole batch, its rows in the order of the samples.

    Args:
        parts: The memory after each part of a batch that this process computed.
        gather: Joins the rows of all processes, in their order.
    """
    named = [_named(pytree.tree_map(gather, part)) for part in parts]
    return {name: torch.cat([part[name] for part in named]).cpu() for name in named[0]}


def load_memory(
    path: Path, model: XLSTMLanguageModel, rows: Sequence[range]
) -> list[tuple[Any, ...]]:
    """Return the memory of some rows of the batch whose memory was `gathered` into a file.

    Args:
        path: The safetensors file.
        model: The model it is of.
        rows: For each part of a batch that this process computes, its rows of the batch.

    Raises:
        ValueError: if the file is damaged, or of another model or batch.
    """
    device = model.embedding.weight.device
    with torch.no_grad():
        _, like = model.eval()(torch.zeros(1, 1, dtype=torch.int64, device=device))
    places, structure = pytree.tree_flatten(like)
    tensors = read_tensors(path)
    batch_size = 1 + max(part[-1] for part in rows)
    for name, place in zip(_named(like), places, strict=True):
        found = tuple(tensors[name].shape) if name in tensors else "nothing"
        if found == "nothing" or found[0] < batch_size or found[1:] != place.shape[1:]:
            raise ValueError(f"{path} is of another model or batch: {name} is {found}")
    return [
        pytree.tree_unflatten(
            [tensors[name][part.start : part.stop].to(device) for name in _named(like)], structure
        )
        for part in rows
    ]


def _named(memory: Any) -> dict[str, Tensor]:
    """The tensors of a memory by their place in it, such as `0.cell.c`."""
    leaves, _ = pytree.tree_flatten_with_path(memory)
    return {pytree.keystr(path).replace("[", "").replace("]", ""): leaf for path, leaf in leaves}
