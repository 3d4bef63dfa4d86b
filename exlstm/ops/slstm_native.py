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


def _forward(x, r, h0, c0, n0, m0, mask, reset, forget_gate, keep=True):
    outputs = slstm_op.new_outputs(x, KEPT_STEPS if keep else None)
    inputs = _contiguous(x, r, h0, c0, n0, m0, mask, reset)
    transforms.fill_spare(outputs[4:])
    kept = outputs[4:] if keep else (None,) * 3
    native.call("slstm_forward", x.dtype, *_sizes(x, forget_gate), *inputs, *outputs[:4], *kept)
    return outputs


def _backward(
    x, r, h0, c0, n0, m0, h, c, n, m, mask, reset, forget_gate,
    dh, dh_last, dc_last, dn_last, dm_last,
):  # fmt: skip
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    d_state = [torch.empty_like(h0, memory_format=torch.contiguous_format) for _ in range(4)]
    inputs = _contiguous(x, r, h0, c0, n0, m0, h, c, n, m, mask, reset)
    d_outputs = _contiguous(dh, dh_last, dc_last, dn_last, dm_last)
    native.call(
        "slstm_backward", x.dtype, *_sizes(x, forget_gate), *inputs, *d_outputs, dx, *d_state
    )

    before = torch.cat((h0[:, None], h[:, :-1]), 1)  # the h each step started from
    if reset is not None:
        before = before.masked_fill(reset[..., None, None], 0.0)
    # r maps the h before to x as weights map their input; here each is in the other's place.
    d_r = torch.empty_like(r, memory_format=torch.contiguous_format)
    d_weights(dx.flatten(2), before.flatten(2), d_r.flatten(2))
    return dx, d_r, *d_state


def _sizes(x: Tensor, forget_gate: str) -> tuple[int, ...]:
    batch, time, heads, _, cells = x.shape
    return batch, time, heads, cells, KEPT_STEPS, int(forget_gate == "exp")


slstm_op.register("slstm_native", "cpu", KEPT_STEPS, _forward, _backward)
