"""The sLSTM as a registered op with a written-out backward pass: what its implementations share.

The time loop is hidden from autograd and from `torch.compile`, so a graph holds one node, not a
few thousand. An implementation is two functions on tensors, below `forward` and `backward`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from exlstm.ops.slstm_reference import SLSTMState
from exlstm.shapes import Bool, Float

_STATE = "Tensor h0, Tensor c0, Tensor n0, Tensor m0"
_FLAGS = "Tensor? mask, Tensor? reset, str forget_gate"


def register(
    name: str,
    device: str,
    forward: Callable[..., tuple[Tensor, ...]],
    backward: Callable[..., tuple[Tensor, ...]],
) -> None:
    """Register `exlstm::<name>_forward` and `exlstm::<name>_backward`.

    Args:
        name: What `run` finds them by.
        device: The kind of device they run on, or `"default"` for all.
        forward: `(x, r, h0, c0, n0, m0, mask, reset, forget_gate, keep)` to the states h, c, n, m
            after every step, B T H V each. Without `keep` c, n and m may be those after the last
            step only, B 1 H V.
        backward: `(x, r, h0, c0, n0, m0, h, c, n, m, mask, reset, forget_gate, dh, dh_last,
            dc_last, dn_last, dm_last)` to the gradients of the first six.
    """
    torch.library.define(
        f"exlstm::{name}_forward",
        f"(Tensor x, Tensor r, {_STATE}, {_FLAGS}, bool keep=True) "
        "-> (Tensor, Tensor, Tensor, Tensor)",
    )
    torch.library.define(
        f"exlstm::{name}_backward",
        f"(Tensor x, Tensor r, {_STATE}, Tensor h, Tensor c, Tensor n, Tensor m, {_FLAGS}, "
        "Tensor dh, Tensor dh_last, Tensor dc_last, Tensor dn_last, Tensor dm_last) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    )
    torch.library.impl(f"exlstm::{name}_forward", device, forward)
    torch.library.impl(f"exlstm::{name}_backward", device, backward)
    torch.library.register_fake(f"exlstm::{name}_forward", _forward_fake)
    torch.library.register_fake(f"exlstm::{name}_backward", _backward_fake)


def run(
    name: str,
    x: Float[Tensor, "B T H G V"],
    r: Float[Tensor, "H V G V"],
    state: SLSTMState,
    mask: Bool[Tensor, "B T"] | None,
    reset: Bool[Tensor, "B T"] | None,
    forget_gate: str,
) -> tuple[Float[Tensor, "B T H V"], SLSTMState]:
    """The sLSTM by the op registered as `name`. Outputs at masked steps are the state's h."""
    keep = torch.is_grad_enabled() and any(s.requires_grad for s in (x, r, *state))
    h, *last = _SLSTM.apply(name, keep, x, r, *state, mask, reset, forget_gate)[:5]
    return h, SLSTMState(*last)


class _SLSTM(torch.autograd.Function):
    @staticmethod
    def forward(name, keep, x, r, h0, c0, n0, m0, mask, reset, forget_gate):
        op = getattr(torch.ops.exlstm, f"{name}_forward")
        states = op(x, r, h0, c0, n0, m0, mask, reset, forget_gate, keep)
        return states[0], *(s[:, -1].clone() for s in states), *states[1:]

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name, _, *tensors, mask, reset, ctx.forget_gate = inputs
        h, _, _, _, _, c, n, m = output
        ctx.mark_non_differentiable(c, n, m)
        ctx.save_for_backward(*tensors, h, c, n, m, mask, reset)

    @staticmethod
    def backward(ctx, *d_outputs):
        op = getattr(torch.ops.exlstm, f"{ctx.name}_backward")
        gradients = op(*ctx.saved_tensors, ctx.forget_gate, *d_outputs[:5])
        return None, None, *gradients, None, None, None


def _forward_fake(x, r, h0, c0, n0, m0, mask, reset, forget_gate, keep=True):
    batch, time, heads, _, cells = x.shape
    kept = time if keep else 1
    return tuple(x.new_empty(batch, steps, heads, cells) for steps in (time, kept, kept, kept))


def _backward_fake(x, r, h0, c0, n0, m0, *_):
    return tuple(s.new_empty(s.shape) for s in (x, r, h0, c0, n0, m0))
