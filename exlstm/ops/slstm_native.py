"""The sLSTM by the compiled kernels of `slstm_cpu.cpp`, in float32 and float64.

The gradient is that of `slstm_sequential.py`, where it is derived.
"""

from __future__ import annotations

import torch
from torch import Tensor

from exlstm.ops import native, slstm_op, transforms
from exlstm.ops.block_linear_native import d_weights
from exlstm.ops.slstm_reference import SLSTMState
from exlstm.shapes import Bool, Float

KEPT_STEPS = 8
"""After every so many steps c, n and m are kept for the backward pass."""


def slstm_native(
    x: Float[Tensor, "B T H G V"],
    r: Float[Tensor, "H V G V"],
    state: SLSTMState,
    mask: Bool[Tensor, "B T"] | None,
    reset: Bool[Tensor, "B T"] | None,
    forget_gate: str,
) -> tuple[Float[Tensor, "B T H V"], SLSTMState]:
    """The sLSTM by the compiled kernels. Outputs at masked steps are the state's h."""
    return slstm_op.run("slstm_native", x, r, state, mask, reset, forget_gate)


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def _in_memory(x: Tensor) -> Tensor:
    return x.transpose(2, 3) if slstm_op.is_gates_first(x) else x.contiguous()


def _sizes(x: Tensor, forget_gate: str) -> tuple[int, ...]:
    batch, time, heads, gates, cells = x.shape
    head, gate = (cells, heads * cells) if slstm_op.is_gates_first(x) else (gates * cells, cells)
    return batch, time, heads, cells, KEPT_STEPS, head, gate, int(forget_gate == "exp")


def _forward(x, r, h0, c0, n0, m0, mask, reset, forget_gate, keep=True):
    outputs = slstm_op.new_outputs(x, KEPT_STEPS if keep else None)
    transforms.fill_spare(outputs[4:])
    # A step costs less than a copy of r, so that is read also where it is a view of rows G H V.
    rows = r.permute(2, 0, 3, 1)
    weights = (1, rows) if rows.is_contiguous() else (0, r.contiguous())
    inputs = (_in_memory(x), *weights, *_contiguous(h0, c0, n0, m0, mask, reset))
    kept = outputs[4:] if keep else (None,) * 3
    native.call("slstm_forward", x.dtype, *_sizes(x, forget_gate), *inputs, *outputs[:4], *kept)
    return outputs


def _backward(
    x, r, h0, c0, n0, m0, h, c, n, m, mask, reset, forget_gate,
    dh, dh_last, dc_last, dn_last, dm_last,
):  # fmt: skip
    dx = slstm_op.new_dx(x)
    d_state = [torch.empty_like(h0, memory_format=torch.contiguous_format) for _ in range(4)]
    inputs = (_in_memory(x), *_contiguous(r, h0, c0, n0, m0, h, c, n, m, mask, reset))
    d_outputs = _contiguous(dh, dh_last, dc_last, dn_last, dm_last)
    gradients = (_in_memory(dx), *d_state)
    native.call("slstm_backward", x.dtype, *_sizes(x, forget_gate), *inputs, *d_outputs, *gradients)

    before = torch.cat((h0[:, None], h[:, :-1]), 1)  # the h each step started from
    if reset is not None:
        before = before.masked_fill(reset[..., None, None], 0.0)
    # r maps the h before to x as weights map their input; here each is in the other's place.
    d_r = torch.empty_like(r, memory_format=torch.contiguous_format)
    pieces = dx.transpose(2, 3) if slstm_op.is_gates_first(dx) else dx.flatten(3)[:, :, None]
    d_weights(pieces, before.flatten(2), d_r.flatten(2))
    return dx, d_r, *d_state


slstm_op.register("slstm_native", "cpu", KEPT_STEPS, _forward, _backward)
