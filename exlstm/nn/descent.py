"""One step of training: what every loop of ours does with a loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def descend(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, clip: float, where: str
) -> float:
    """Go one step down the gradient of a loss, clipped.

    Args:
        model: Whose gradients are clipped.
        optimizer: Over its parameters.
        loss: Of one batch.
        clip: Largest norm of the gradient.
        where: Is said of a step that cannot be taken, such as "in epoch 3".

    Returns:
        The loss.

    Raises:
        FloatingPointError: The loss or the gradient is not finite; no step is taken.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> descend(model, optimizer, model(torch.ones(3, 2)).sum() * torch.nan, 1.0, "at step 1")
        Traceback (most recent call last):
        FloatingPointError: loss nan, gradient norm nan at step 1
    """
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
    value = loss.item()
    if not math.isfinite(value) or not math.isfinite(norm):
        raise FloatingPointError(f"loss {value:.3g}, gradient norm {norm.item():.3g} {where}")
    optimizer.step()
    return value
