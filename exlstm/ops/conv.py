"""The causal depthwise convolution with state: a window over the last W inputs of each channel."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from exlstm.ops.backend import choose
from exlstm.ops.checks import check_choice, check_shapes, check_steps, compute_dtype, mixed_dtype
from exlstm.ops.conv_sequence_parallel import conv_start_and_end
from exlstm.ops.sequence_parallel import sequence_group
from exlstm.shapes import Bool, Float


def causal_conv1d(
    x: Float[Tensor, "B T D"],
    weight: Float[Tensor, "D W"],
    bias: Float[Tensor, " D"] | None = None,
    state: Float[Tensor, "B W-1 D"] | None = None,
    *,
    reset: Bool[Tensor, "B T"] | None = None,
    mask: Bool[Tensor, "B T"] | None = None,
    activation: Literal["silu"] | None = None,
    backend: str | None = None,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B W-1 D"]]:
    r"""Convolve each channel with its own filter over the present and the W - 1 steps before it.

    $$
    y_t = \phi\Big(b + \sum_{w=0}^{W-1} \mathrm{weight}_{w} \odot x_{t-(W-1)+w}\Big), \qquad
    \phi(p) = p \quad\text{or}\quad \mathrm{SiLU}(p) = p\, \sigma(p)
    $$

    Calls can be chained through `state`: pieces give what the whole gives. `T == 1` is a decoding
    step.

    Args:
        x: Inputs.
        weight: One filter a channel; the last tap meets the current step.
        bias: Added to each channel.
        state: The last W - 1 inputs, oldest first. `None` is an empty window, zeros.
        reset: Where True, the window is emptied before the step.
        mask: Where False, the step is absent: it enters no window and its output is zero.
        activation: `None`, or `"silu"` for the SiLU of every output in the same pass.
        backend: A name from `backends("causal_conv1d")` runs that one or raises. `None` takes the
            fastest that can run the call.

    Returns:
        The outputs, in the dtype of `x`, and the window after step T, in float32 (float64 for
        float64 inputs). Gradients flow through both. No input is written to.

    Raises:
        ValueError: Shapes, dtypes or options are not as above; the message names the value.
        BackendError: `backend` was named and cannot run these inputs; the message says why.

    Example:
        >>> import torch
        >>> x, weight = torch.ones(1, 3, 2), torch.ones(2, 4)
        >>> y, state = causal_conv1d(x, weight)
        >>> y[0, :, 0], state.shape
        (tensor([1., 2., 3.]), torch.Size([1, 3, 2]))
        >>> causal_conv1d(x[:, :1], weight, None, state, activation="silu")[0][0, :, 0]
        tensor([3.9281])
    """
    sizes = check_shapes("causal_conv1d", x=(x, "B T D"))
    sizes = check_shapes("causal_conv1d", sizes, mixed_dtype(weight, x), weight=(weight, "D W"))
    if bias is not None:
        check_shapes("causal_conv1d", sizes, weight.dtype, bias=(bias, "D"))
    check_steps("causal_conv1d", sizes, mask=mask, reset=reset)
    if activation is not None:
        check_choice("activation", activation, ("silu",))
    run = choose("causal_conv1d", backend, x, weight)
    dtype = compute_dtype(x)
    width = sizes["W"]
    if state is None:
        state = x.new_zeros(sizes["B"], width - 1, sizes["D"], dtype=dtype)
    else:
        check_shapes("causal_conv1d", sizes, dtype, state=(state, f"B {width - 1} D"))

    # Autocast changes nothing that runs below, so a decoding step need not wait for it to be off.
    bias = bias if bias is None else bias.to(dtype)
    inputs = (x.to(dtype), weight.to(dtype), bias)
    if (group := sequence_group()) is None:
        y, last = run(*inputs, state, mask, reset, activation)
    else:
        state, last = conv_start_and_end(inputs[0], state, mask, reset, group)
        y, _ = run(*inputs, state, mask, reset, activation)
    return y.to(x.dtype), last
