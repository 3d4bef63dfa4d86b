"""The causal convolution by the compiled CPU kernels of `conv_cpu.cpp`, as one registered op."""

from __future__ import annotations

import torch
from torch import Tensor

from exlstm.ops import native, transforms
from exlstm.shapes import Bool, Float

_INPUTS = "Tensor x, Tensor weight, Tensor? bias, Tensor state, Tensor? mask, Tensor? reset"

torch.library.define("exlstm::conv_forward", f"({_INPUTS}, bool silu) -> (Tensor, Tensor)")
# To the gradients of x, weight, bias (also where there is none) and state.
torch.library.define(
    "exlstm::conv_backward",
    f"({_INPUTS}, bool silu, Tensor dy, Tensor d_last) -> (Tensor, Tensor, Tensor, Tensor)",
)


def conv_native(
    x: Float[Tensor, "B T D"],
    weight: Float[Tensor, "D W"],
    bias: Float[Tensor, " D"] | None,
    state: Float[Tensor, "B W-1 D"],
    mask: Bool[Tensor, "B T"] | None,
    reset: Bool[Tensor, "B T"] | None,
    activation: str | None,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B W-1 D"]]:
    """The convolution by compiled kernels. Of the inputs, x alone is kept for the backward pass."""
    arguments = (x, weight, bias, state, mask, reset, activation == "silu")
    if transforms.needs_gradient(x, weight, bias, state):
        return _Conv.apply(*arguments)
    return torch.ops.exlstm.conv_forward(*arguments)


class _Conv(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, bias, state, mask, reset, silu):
        return torch.ops.exlstm.conv_forward(x, weight, bias, state, mask, reset, silu)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.silu = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, *d_outputs):
        inputs = ctx.saved_tensors  # to be read once: under checkpointing they are gone after it
        gradients = torch.ops.exlstm.conv_backward(*inputs, ctx.silu, *d_outputs)
        dx, d_weight, d_bias, d_state = gradients
        return dx, d_weight, None if inputs[2] is None else d_bias, d_state, None, None, None


def _side_by_side(x: Tensor) -> Tensor:
    """With the channels of a step next to each other, copied only if they are not."""
    return x if x.stride(2) == 1 else x.contiguous()


def _arguments(x, weight, bias, state, mask, reset, silu) -> tuple[Tensor | int | None, ...]:
    """What both kernels begin with."""
    rest = (None if s is None else s.contiguous() for s in (weight, bias, state, mask, reset))
    return *x.shape, weight.shape[1], silu, *_strided(x), *rest


def _strided(x: Tensor) -> tuple[int, int, int]:
    return x.data_ptr(), x.stride(0), x.stride(1)


@torch.library.impl("exlstm::conv_forward", "cpu")
def _forward(x, weight, bias, state, mask, reset, silu):
    x = _side_by_side(x)
    outputs = _forward_fake(x, weight, bias, state, mask, reset, silu)
    arguments = _arguments(x, weight, bias, state, mask, reset, silu)
    native.call("conv_forward", x.dtype, *arguments, *outputs)
    return outputs


@torch.library.impl("exlstm::conv_backward", "cpu")
def _backward(x, weight, bias, state, mask, reset, silu, dy, d_last):
    x, dy = _side_by_side(x), _side_by_side(dy)
    gradients = _backward_fake(x, weight, bias, state)
    arguments = _arguments(x, weight, bias, state, mask, reset, silu)
    native.call(
        "conv_backward", x.dtype, *arguments, *_strided(dy), d_last.contiguous(), *gradients
    )
    return gradients


@torch.library.register_fake("exlstm::conv_forward")
def _forward_fake(x, weight, bias, state, mask, reset, silu):
    return x.new_empty(x.shape), state.new_empty(state.shape)


@torch.library.register_fake("exlstm::conv_backward")
def _backward_fake(x, weight, bias, state, *_):
    return (
        x.new_empty(x.shape),
        weight.new_empty(weight.shape),
        weight.new_empty(weight.shape[:1]),
        state.new_empty(state.shape),
    )


transforms.register_vmap("conv_forward")
transforms.register_vmap("conv_backward")
