"""The head norm by the compiled CPU kernels of `head_norm_cpu.cpp`, as one registered op."""

from __future__ import annotations

import struct
from functools import cache

import torch
from torch import Tensor

from exlstm.ops import native, transforms
from exlstm.shapes import Float

_INPUTS = "Tensor h, Tensor weight, Tensor? gate, Tensor? skip, Tensor? skipped"

# Kept for the backward pass: of each head its mean, in two parts, and 1 / std.
torch.library.define(
    "exlstm::head_norm_forward", f"({_INPUTS}, float eps, str activation) -> (Tensor, Tensor)"
)
# A gradient of what is absent is empty.
torch.library.define(
    "exlstm::head_norm_backward",
    f"({_INPUTS}, Tensor kept, Tensor dy, str activation) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)


def yields(h: Tensor, *others: Tensor) -> str | None:
    """Why PyTorch's own operations are faster on these tensors, or `None` if the kernels are."""
    # Measured: up to here calling a registered op costs more than its kernel gains.
    return None if h.numel() >= 1 << 15 else "on so little data PyTorch's own operations are faster"


def head_norm_native(
    h: Float[Tensor, "B T H V"],
    weight: Float[Tensor, " X"],
    eps: float,
    gate: Float[Tensor, "B T X"] | None,
    activation: str,
    skip: Float[Tensor, " X"] | None,
    skipped: Float[Tensor, "B T X"] | None,
) -> Float[Tensor, "B T X"]:
    """The head norm by the compiled kernels."""
    inputs = (h, weight, gate, skip, skipped)
    if transforms.needs_gradient(*inputs):
        return _HeadNorm.apply(*inputs, eps, activation)[0]
    return torch.ops.exlstm.head_norm_forward.default(*inputs, eps, activation)[0]


class _HeadNorm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(h, weight, gate, skip, skipped, eps, activation):
        inputs = (h, weight, gate, skip, skipped)
        return torch.ops.exlstm.head_norm_forward.default(*inputs, eps, activation)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, _, ctx.activation = inputs
        _, kept = output
        ctx.mark_non_differentiable(kept)
        ctx.save_for_backward(*tensors, kept)

    @staticmethod
    def backward(ctx, *d_outputs):
        gradients = torch.ops.exlstm.head_norm_backward.default(
            *ctx.saved_tensors, d_outputs[0], ctx.activation
        )
        wanted = zip(gradients, ctx.needs_input_grad[:5], strict=True)
        return *(gradient if needed else None for gradient, needed in wanted), None, None


@torch.library.impl("exlstm::head_norm_forward", "cpu")
def _forward(h, weight, gate, skip, skipped, eps, activation):
    outputs = _forward_fake(h, weight, gate, skip, skipped, eps, activation)
    batch, time, heads, value = h.shape
    h, weight, skip = h.contiguous(), weight.contiguous(), _contiguous(skip)
    (gate, *gate_rows), (skipped, *skipped_rows) = _rows(gate), _rows(skipped)
    native.call(
        "head_norm_forward", h.dtype, batch * time, heads, value, _bits(eps), activation == "silu",
        h, weight, *gate_rows, skip, *skipped_rows, *outputs,
    )  # fmt: skip
    return outputs


@torch.library.impl("exlstm::head_norm_backward", "cpu")
def _backward(h, weight, gate, skip, skipped, kept, dy, activation):
    gradients = _backward_fake(h, weight, gate, skip, skipped, kept, dy, activation)
    batch, time, heads, value = h.shape
    h, weight, skip = h.contiguous(), weight.contiguous(), _contiguous(skip)
    (gate, *gate_rows), (skipped, *skipped_rows) = _rows(gate), _rows(skipped)
    dy, *dy_rows = _rows(dy)
    native.call(
        "head_norm_backward", h.dtype, batch * time, heads, value, activation == "silu",
        h, weight, *gate_rows, skip, *skipped_rows, kept, *dy_rows,
        *(d if d.numel() else None for d in gradients),
    )  # fmt: skip
    return gradients


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _rows(x: Tensor | None) -> tuple[Tensor | None, int, int]:
    """Rows an even distance apart, to be kept alive; where they are, and that distance."""
    if x is None:
        return None, 0, 0
    x, step = native.steps(x)
    return x, x.data_ptr(), step


@cache
def _bits(x: float) -> int:
    return struct.unpack("q", struct.pack("d", x))[0]


@torch.library.register_fake("exlstm::head_norm_forward")
def _forward_fake(h, weight, gate, skip, skipped, eps, activation):
    batch, time, heads, value = h.shape
    return h.new_empty(batch, time, heads * value), h.new_empty(batch, time, heads, 3)


@torch.library.register_fake("exlstm::head_norm_backward")
def _backward_fake(h, weight, gate, skip, skipped, kept, dy, activation):
    inputs = (h, weight, gate, skip, skipped)
    return tuple(h.new_empty((0,) if x is None else x.shape) for x in inputs)


transforms.register_vmap("head_norm_forward")
transforms.register_vmap("head_norm_backward")
