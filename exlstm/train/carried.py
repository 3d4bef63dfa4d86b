"""The memory a run carries from one step to the next, in and out of checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from exlstm.nn import MixerState
from exlstm.ops import MLSTMState, SLSTMState
from exlstm.train.checkpoint import read_tensors


def gathered(
    parts: Sequence[Sequence[MixerState]], gather: Callable[[Tensor], Any]
) -> dict[str, Tensor]:
    """Return the memory of a whole batch by name, its rows in the order of the samples.

    Args:
        parts: The memory of all blocks after each part of the batch that this process computed.
        gather: Joins the rows of all processes, in their order.
    """
    named = [_named(tree_map(gather, part)) for part in parts]
    return {name: torch.cat([part[name] for part in named]).cpu() for name in named[0]}


def load_memory(
    path: Path, parts: Sequence[range], device: torch.device
) -> list[tuple[MixerState, ...]]:
    """Return the memory of some rows of a batch, from a file of what `gathered` returned.

    Args:
        path: The safetensors file.
        parts: For each part of a batch that this process computes, its rows of the batch.
        device: Where the memory is wanted.

    Raises:
        ValueError: if there is no such file or it is damaged.
    """
    tensors = read_tensors(path)

    def block(number: int, rows: range) -> MixerState:
        cell = SLSTMState if f"{number}.cell.h" in tensors else MLSTMState
        names = [*(f"{number}.cell.{field}" for field in cell._fields), f"{number}.conv"]
        *fields, conv = (tensors[name][rows.start : rows.stop].to(device) for name in names)
        return MixerState(cell(*fields), conv)

    blocks = sum(name.endswith(".conv") for name in tensors)
    return [tuple(block(number, rows) for number in range(blocks)) for rows in parts]


def _named(memory: Sequence[MixerState]) -> dict[str, Tensor]:
    named = {}
    for number, (cell, conv) in enumerate(memory):
        named |= {f"{number}.cell.{field}": tensor for field, tensor in cell._asdict().items()}
        named[f"{number}.conv"] = conv
    return named
