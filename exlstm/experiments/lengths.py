"""How good a trained model is on rows that are longer than those of its training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

TOKENS = 8192
"""At once, about: a result does not depend on it."""


@torch.no_grad()
def loss_by_length(
    model: nn.Module, segments: NDArray[np.int64], lengths: Sequence[int]
) -> list[dict[str, Any]]:
    """The mean loss over the same tokens, read in pieces of each length.

    Every piece is read in one pass from an empty memory; attention sees all of it.

    Args:
        model: To an answer after every step, as `SequenceModel`.
        segments: Tokens, (number of segments, S + 1): S are read, and each is answered by the next.
        lengths: Of the pieces.

    Returns:
        For each length its `length` and `loss`.

    Raises:
        ValueError: A length does not divide S.
    """
    steps = segments.shape[1] - 1
    if wrong := [length for length in lengths if steps % length]:
        raise ValueError(f"pieces of {wrong[0]} steps do not fill segments of {steps}")
    model.eval()
    found = []
    for length in lengths:
        inputs, targets = (
            torch.from_numpy(part.reshape(-1, length)).split(max(1, TOKENS // length))
            for part in (segments[:, :-1], segments[:, 1:])
        )
        total = 0.0
        for read, answers in zip(inputs, targets, strict=True):
            losses = F.cross_entropy(model(read).flatten(0, 1), answers.flatten(), reduction="none")
            total += losses.double().sum().item()
        found.append({"length": length, "loss": total / (len(segments) * steps)})
    return found
