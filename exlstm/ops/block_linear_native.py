"""Block-diagonal linear maps by the compiled kernels of `block_linear_cpu.cpp`, as registered ops.

With dy the gradient of the output, those of a part are $dx_{n} = W_n^T dy_n$ and $dW_n$, the sum
over all steps of $dy_n x_n^T$; that of the bias is the sum of dy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from exlstm.ops import native, transforms
from exlstm.ops.block_linear_reference import Order
from exlstm.shapes import Float

# `source` says for each part which of the inputs is its own: the gradients of parts with one input
# are added while they are in the cache.
torch.library.define(
    "exlstm::block_linear_forward",
    "(Tensor[] inputs, int[] source, Tensor[] weights, Tensor? bias, str order) -> Tensor",
)
torch.library.define(
    "exlstm::block_linear_backward",
    "(Tensor[] inputs, int[] source, Tensor[] weights, Tensor dy, str order) "
    "-> (Tensor[], Tensor[], Tensor)",
)


def block_linear_native(
    inputs: Sequence[Tensor], weights: Sequence[Tensor], bias: Tensor | None, order: Order
) -> Tensor:
    """The maps by compiled kernels."""
    unique: list[Tensor] = []
    source: list[int] = []
    for x in inputs:
        same = [index for index, other in enumerate(unique) if other is x]
        source.append(same[0] if same else len(unique))
        if not same:
            unique.append(x)
    if transforms.needs_gradient(bias, *unique, *weights):
        return _BlockLinear.apply(source, order, bias, *unique, *weights)
    return torch.ops.exlstm.block_linear_forward(unique, source, list(weights), bias, order)


class _BlockLinear(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(source, order, bias, *tensors):
        inputs, weights = tensors[: -len(source)], tensors[-len(source) :]
        return torch.ops.exlstm.block_linear_forward(inputs, source, weights, bias, order)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.source, ctx.order, bias, *tensors = inputs
        ctx.has_bias = bias is not None
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, *d_outputs):
        tensors, parts = ctx.saved_tensors, len(ctx.source)
        dx, dw, db = torch.ops.exlstm.block_linear_backward(
            tensors[:-parts], ctx.source, tensors[-parts:], *d_outputs, ctx.order
        )
        return None, None, db if ctx.has_bias else None, *dx, *dw


def _shape(x: Tensor, weights: Sequence[Tensor], order: Order) -> tuple[int, ...]:
    blocks, outs = weights[0].shape[0], sum(w.shape[1] for w in weights)
    return (*x.shape[:2], blocks * outs) if order == "parts" else (*x.shape[:2], blocks, outs)


def _maps(inputs, source, weights, order, gradients=None) -> tuple[Tensor, list[Tensor]]:
    """The table that the kernels read, a row a part (`Map` in `block_linear_maps.hpp`).

    With it come the tensors whose addresses stand in it, to be kept until the kernel is done.
    """
    rows = [native.steps(x) for x in inputs]
    weights = [w.contiguous() for w in weights]
    blocks, outs = weights[0].shape[0], sum(w.shape[1] for w in weights)
    table, offset, seen = [], 0, set()
    for part, (which, w) in enumerate(zip(source, weights, strict=True)):
        _, out_size, in_size = w.shape
        x, x_stride = rows[which]
        place = (offset, out_size if order == "parts" else outs)
        to = (0, 0, 0)
        if gradients is not None:
            dx, dw = gradients
            to = (dx[which].data_ptr(), int(which in seen), dw[part].data_ptr())
        row = (in_size, out_size, x.data_ptr(), x_stride, w.data_ptr(), *place, *to, 1)
        table.append(row)
        offset += blocks * out_size if order == "parts" else out_size
        seen.add(which)
    return torch.tensor(table, dtype=torch.int64), [*weights, *(x for x, _ in rows)]


@torch.library.impl("exlstm::block_linear_forward", "cpu")
def _forward(inputs, source, weights, bias, order):
    y = _forward_fake(inputs, source, weights, bias, order)
    maps, _kept = _maps(inputs, source, weights, order)
    bias = None if bias is None else bias.contiguous()
    native.call("block_linear_forward", y.dtype, *_sizes(y, weights), maps, bias, y)
    return y


@torch.library.impl("exlstm::block_linear_backward", "cpu")
def _backward(inputs, source, weights, dy, order):
    dx, dw, db = _backward_fake(inputs, source, weights, dy, order)
    maps, _kept = _maps(inputs, source, weights, order, (dx, dw))
    native.call("block_linear_backward", dy.dtype, *_sizes(dy, weights), maps, dy.contiguous(), db)
    return dx, dw, db


def d_weights(
    x: Float[Tensor, "B T P N I"], dy: Float[Tensor, "B T N*O"], dw: Float[Tensor, "N O P*I"]
) -> None:
    """Write the gradient of the weights alone, for blocks with P pieces of input. P I is not O."""
    (blocks, out_size, _), (pieces, _, in_size), (x, step) = dw.shape, x.shape[2:], native.steps(x)
    row = (in_size, out_size, x.data_ptr(), step, 0, 0, out_size, 0, 0, dw.data_ptr(), pieces)
    sizes, maps = (dy.shape[0] * dy.shape[1], blocks, dy.shape[2], 1), torch.tensor([row])
    db = dy.new_empty(dy.shape[2])
    native.call("block_linear_backward", dy.dtype, *sizes, maps, dy.contiguous(), db)


def _sizes(y: Tensor, weights: Sequence[Tensor]) -> tuple[int, ...]:
    blocks = weights[0].shape[0]
    rows = y.shape[0] * y.shape[1]
    return rows, blocks, y.numel() // rows, len(weights)


@torch.library.register_fake("exlstm::block_linear_forward")
def _forward_fake(inputs, source, weights, bias, order):
    return inputs[0].new_empty(_shape(inputs[0], weights, order))


@torch.library.register_fake("exlstm::block_linear_backward")
def _backward_fake(inputs, source, weights, dy, order):
    return (
        [x.new_empty(x.shape) for x in inputs],
        [w.new_empty(w.shape) for w in weights],
        dy.new_empty(dy.shape[2:]),
    )


transforms.register_vmap("block_linear_forward")
transforms.register_vmap("block_linear_backward")
