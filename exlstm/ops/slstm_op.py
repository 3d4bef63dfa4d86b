"""The sLSTM as a registered op with a written-out backward pass: what its implementations share.

The time loop is hidden from autograd and from `torch.compile`, so a graph holds one node, not a
few thousand. An implementation is two functions on tensors, below `forward` and `backward`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from exlstm.ops import transforms
from exlstm.ops.slstm_reference import SLSTMState
from exlstm.shapes import Bool, Float

_STATE = "Tensor h0, Tensor c0, Tensor n0, Tensor m0"
_FLAGS = "Tensor? mask, Tensor? reset, str forget_gate"


def register(
    name: str,
    device: str,
    kept_steps: int,
    forward: Callable[..., tuple[Tensor, ...]],
    backward: Callable[..., tuple[Tensor, ...]],
) -> None:
    """Register `exlstm::<name>_forward` and `exlstm::<name>_backward`.

    Args:
        name: What `run` finds them by.
        device: The kind of device they run on, or `"default"` for all.
        kept_steps: Of how many steps c, n and m are kept once, for the backward pass.
        forward: `(x, r, h0, c0, n0, m0, mask, reset, forget_gate, keep)` to what `new_outputs`
            makes; without `keep` nothing is kept.
        backward: `(x, r, h0, c0, n0, m0, h, c, n, m, mask, reset, forget_gate, dh, dh_last,
            dc_last, dn_last, dm_last)` to the gradients of the first six.
    """
    torch.library.define(
        f"exlstm::{name}_forward",
        f"(Tensor x, Tensor r, {_STATE}, {_FLAGS}, bool keep=True) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    )
    torch.library.define(
        f"exlstm::{name}_backward",
        f"(Tensor x, Tensor r, {_STATE}, Tensor h, Tensor c, Tensor n, Tensor m, {_FLAGS}, "
        "Tensor dh, Tensor dh_last, Tensor dc_last, Tensor dn_last, Tensor dm_last) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    )
    torch.library.impl(f"exlstm::{name}_forward", device, forward)
    torch.library.impl(f"exlstm::{name}_backward", device, backward)
    torch.library.register_fake(
        f"exlstm::{name}_forward",
        lambda x, *_, keep=True: new_outputs(x, kept_steps if keep else None),
    )
    torch.library.register_fake(f"exlstm::{name}_backward", _backward_fake)
    transforms.register_vmap(f"{name}_forward")
    transforms.register_vmap(f"{name}_backward")


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
    inputs = (x, r, *state)
    if transforms.needs_gradient(*inputs):
        h, *last = _SLSTM.apply(name, *inputs, mask, reset, forget_gate)[:5]
    else:
        op = getattr(torch.ops.exlstm, f"{name}_forward")
        h, *last = op(*inputs, mask, reset, forget_gate, False)[:4]
        last.insert(0, h[:, -1].clone())
    return h, SLSTMState(*last)


def new_outputs(x: Float[Tensor, "B T H G V"], kept_steps: int | None) -> tuple[Tensor, ...]:
    """The outputs of a forward pass, not yet written: h, the last c, n, m, the kept c, n, m.

    The kept ones are those after steps `kept_steps`, twice that and so on: B T H V of every step,
    else a row of numbers in that order; none with `None`.
    """
    batch, time, heads, _, cells = x.shape
    every = (batch, time, heads, cells)
    kept = every if kept_steps == 1 else (0,)
    if kept_steps not in (None, 1):
        kept = transforms.room(batch * (time // kept_steps) * heads * cells)
    shapes = every, *[(batch, heads, cells)] * 3, *[kept] * 3
    return tuple(x.new_empty(shape) for shape in shapes)


def is_gates_first(x: Float[Tensor, "B T H G V"]) -> bool:
    """Whether x lies in memory as B T G H V, as what one dense map gives for all heads does."""
    return not x.is_contiguous() and x.transpose(2, 3).is_contiguous()


def new_dx(x: Float[Tensor, "B T H G V"]) -> Tensor:
    """The gradient of x, not yet written: with the gates first if x is so, else contiguous."""
    layout = torch.preserve_format if is_gates_first(x) else torch.contiguous_format
    return torch.empty_like(x, memory_format=layout)


class _SLSTM(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(name, x, r, h0, c0, n0, m0, mask, reset, forget_gate):
        op = getattr(torch.ops.exlstm, f"{name}_forward")
        h, *others = op(x, r, h0, c0, n0, m0, mask, reset, forget_gate, True)
        return h, h[:, -1].clone(), *others

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name, *tensors, mask, reset, ctx.forget_gate = inputs
        h, _, _, _, _, *kept = output
        ctx.mark_non_differentiable(*kept)
        ctx.save_for_backward(*tensors, h, *kept, mask, reset)

    @staticmethod
    def backward(ctx, *d_outputs):
        op = getattr(torch.ops.exlstm, f"{ctx.name}_backward")
        gradients = op(*ctx.saved_tensors, ctx.forget_gate, *d_outputs[:5])
        return None, *gradients, None, None, None


def _backward_fake(x, r, h0, c0, n0, m0, *_):
    return new_dx(x), *(s.new_empty(s.shape) for s in (r, h0, c0, n0, m0))
