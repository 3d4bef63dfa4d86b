"""The causal depthwise convolution with state: a window over the last W inputs of each channel."""

from __future__ import annotations

import torch
from torch import Tensor

from exlstm.ops.checks import check_shapes, check_steps, compute_dtype, mixed_dtype
from exlstm.shapes import Bool, Float, Int


def causal_conv1d(
    x: Float[Tensor, "B T D"],
    weight: Float[Tensor, "D W"],
    bias: Float[Tensor, " D"] | None = None,
    state: Float[Tensor, "B W-1 D"] | None = None,
    *,
    reset: Bool[Tensor, "B T"] | None = None,
    mask: Bool[Tensor, "B T"] | None = None,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B W-1 D"]]:
    r"""Convolve each channel with its own filter over the present and the W - 1 steps before it.

    $$ y_t = b + \sum_{w=0}^{W-1} \mathrm{weight}_{w} \odot x_{t-(W-1)+w} $$

    Calls can be chained through `state`: pieces give what the whole gives. `T == 1` is a decoding
    step.

    Args:
        x: Inputs.
        weight: One filter a channel; the last tap meets the current step.
        bias: Added to each channel.
        state: The last W - 1 inputs, oldest first. `None` is an empty window, zeros.
        reset: Where True, the window is emptied before the step.
        mask: Where False, the step is absent: it enters no window and its output is zero.

    Returns:
        The outputs, in the dtype of `x`, and the window after step T, in float32 (float64 for
        float64 inputs). Gradients flow through both. No input is written to.

    Raises:
        ValueError: Shapes or dtypes are not as above; the message names the value.

    Example:
        >>> x, weight = torch.ones(1, 3, 2), torch.ones(2, 4)
        >>> y, state = causal_conv1d(x, weight)
        >>> y[0, :, 0], state.shape
        (tensor([1., 2., 3.]), torch.Size([1, 3, 2]))
    """
    sizes = check_shapes("causal_conv1d", x=(x, "B T D"))
    sizes = check_shapes("causal_conv1d", sizes, mixed_dtype(weight, x), weight=(weight, "D W"))
    if bias is not None:
        check_shapes("causal_conv1d", sizes, weight.dtype, bias=(bias, "D"))
    check_steps("causal_conv1d", sizes, mask=mask, reset=reset)
    dtype = compute_dtype(x)
    width = sizes["W"]
    if state is None:
        state = x.new_zeros(sizes["B"], width - 1, sizes["D"], dtype=dtype)
    else:
        check_shapes("causal_conv1d", sizes, dtype, state=(state, f"B {width - 1} D"))

    with torch.autocast(x.device.type, enabled=False):
        inputs, taps = x.to(dtype), weight.to(dtype)
        if mask is None and reset is None:
            y, last = _unbroken(inputs, taps, state)
        else:
            y, last = _broken(inputs, taps, state, mask, reset)
        if bias is not None:
            y = y + bias.to(dtype)
        if mask is not None:
            y = y.masked_fill(~mask[..., None], 0.0)
        return y.to(x.dtype), last


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
