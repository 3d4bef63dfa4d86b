"""The causal convolution in plain PyTorch: THE MATH, in any float dtype, on any device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from exlstm.shapes import Bool, Float, Int


def conv_reference(
    x: Float[Tensor, "B T D"],
    weight: Float[Tensor, "D W"],
    bias: Float[Tensor, " D"] | None,
    state: Float[Tensor, "B W-1 D"],
    mask: Bool[Tensor, "B T"] | None,
    reset: Bool[Tensor, "B T"] | None,
    activation: str | None,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B W-1 D"]]:
    """The convolution as a sum over taps."""
    if mask is None and reset is None:
        y, last = _unbroken(x, weight, state)
    else:
        y, last = _broken(x, weight, state, mask, reset)
    if bias is not None:
        y = y + bias
    if activation == "silu":
        y = F.silu(y)
    if mask is not None:
        y = y.masked_fill(~mask[..., None], 0.0)
    return y, last


def _unbroken(
    x: Float[Tensor, "B T D"], weight: Float[Tensor, "D W"], state: Float[Tensor, "B W-1 D"]
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B W-1 D"]]:
    """Every step is real and none starts anew: shifted copies of one window."""
    time, width = x.shape[1], weight.shape[1]
    window = torch.cat((state, x), dim=1)
    y = x * weight[:, width - 1]
    for w in range(width - 1):
        y = y + window[:, w : w + time] * weight[:, w]
    return y, window[:, time:].clone()


def _broken(
    x: Float[Tensor, "B T D"],
    weight: Float[Tensor, "D W"],
    state: Float[Tensor, "B W-1 D"],
    mask: Bool[Tensor, "B T"] | None,
    reset: Bool[Tensor, "B T"] | None,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B W-1 D"]]:
    """The same by looking up which real steps of its own segment lie in each step's window."""
    batch, time, _ = x.shape
    width = weight.shape[1]
    flag = torch.zeros(batch, time, dtype=torch.bool, device=x.device)
    real = ~flag if mask is None else mask
    segment = (flag if reset is None else reset).cumsum(1)  # B T, the state is of segment 0
    segments = torch.cat((segment.new_zeros(batch, width - 1), segment), dim=1)
    window = torch.cat((state, x), dim=1)

    # Position of the state and of the real steps in `window`, in order; the rest follows behind.
    everywhere = torch.cat((real.new_ones(batch, width - 1), real), dim=1)
    order = (~everywhere).to(torch.int8).argsort(dim=1, stable=True)
    # How many of them lie before each step, and in all.
    before = everywhere.cumsum(1)[:, width - 1 :] - real.long()
    total = everywhere.sum(1, keepdim=True)

    def taken(rank: Int[Tensor, "B S"], own: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        """The inputs of a rank in `order`, zero where they are of another segment than `own`."""
        position = order.gather(1, rank)
        values = window.gather(1, position[..., None].expand(-1, -1, window.shape[2]))
        return values.masked_fill((segments.gather(1, position) != own)[..., None], 0.0)

    y = x * weight[:, width - 1]
    for w in range(width - 1):
        y = y + taken(before - (width - 1) + w, segment) * weight[:, w]
    ranks = total - (width - 1) + torch.arange(width - 1, device=x.device)
    return y, taken(ranks, segment[:, -1:].expand_as(ranks))
