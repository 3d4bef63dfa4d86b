"""A window of a series as a network reads it: gaps filled and flagged, steps as patches."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from exlstm.shapes import Bool, Float


def last_steps(x: Float[Tensor, "B T *C"], size: int) -> Float[Tensor, "B _ *C"]:
    """The last `size` steps; where there are fewer, NaN stands on the left.

    Example:
        >>> last_steps(torch.tensor([[1.0, 2.0]]), 3)
        tensor([[nan, 1., 2.]])
    """
    x = x[:, -size:]
    missing = x.new_full((len(x), size - x.shape[1], *x.shape[2:]), math.nan)
    return torch.cat([missing, x], dim=1)


def fill(window: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Each gap as the last value before it, or as the first value at all; zeros if there is none.

    Example:
        >>> fill(torch.tensor([[torch.nan, 1.0, torch.nan, 2.0]]))
        tensor([[1., 1., 1., 2.]])
    """
    observed = ~window.isnan()
    steps = torch.arange(window.shape[1], device=window.device)
    before = torch.where(observed, steps, -1).cummax(1).values
    first = observed.byte().argmax(1, keepdim=True)
    filled = window.gather(1, torch.where(before < 0, first, before))
    return torch.where(filled.isnan(), 0.0, filled)


def standard_deviation(
    x: Float[Tensor, "B T"], observed: Bool[Tensor, "B T"]
) -> Float[Tensor, "B 1"]:
    """The standard deviation of the steps observed; 0 if there are none."""
    count = observed.sum(1, keepdim=True).clamp(min=1)
    mean = torch.where(observed, x, 0.0).sum(1, keepdim=True) / count
    square = torch.where(observed, x - mean, 0.0).square().sum(1, keepdim=True) / count
    # The root has no slope at 0.
    return torch.where(square > 0, square, 1.0).sqrt() * (square > 0)


def flag(x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B _"]:
    """Zeros for NaN, and behind the channels what was observed of each.

    Example:
        >>> flag(torch.tensor([[3.0, torch.nan]]))
        tensor([[3., 0., 1., 0.]])
    """
    observed = ~x.isnan()
    return torch.cat([torch.where(observed, x, 0.0), observed.to(x.dtype)], dim=-1)


def to_patches(
    x: Float[Tensor, "B T C"], horizon: int, patch_length: int
) -> Float[Tensor, "B _ _"]:
    """`patch_length` steps as one token; none holds steps of both the past and the horizon.

    Args:
        x: The window's steps, then those of the horizon.
        horizon: How many those are.
        patch_length: Zeros fill the first patch of the window and the last of the horizon.

    Example:
        >>> to_patches(torch.tensor([[1.0, 2.0, 3.0, 4.0]])[..., None], 1, 2)
        tensor([[[0., 1.],
                 [2., 3.],
                 [4., 0.]]])
    """
    before = (horizon - x.shape[1]) % patch_length
    x = F.pad(x, (0, 0, before, -horizon % patch_length))
    return x.unflatten(1, (-1, patch_length)).flatten(2)
