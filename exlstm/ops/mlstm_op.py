"""The mLSTM as a registered op with a written-out backward pass: what its implementations share."""

from __future__ import annotations

import torch
from torch import Tensor

from exlstm.ops import transforms
from exlstm.ops.mlstm_reference import MLSTMState
from exlstm.shapes import Float

INPUTS = "Tensor q, Tensor k, Tensor v, Tensor log_i, Tensor log_f, Tensor c, Tensor n, Tensor m"


def define(name: str, kept: str) -> None:
    """Define `exlstm::<name>_forward` and `exlstm::<name>_backward`, and all but what they run.

    Args:
        name: What `run` finds them by.
        kept: What the forward pass keeps for the backward pass, as in a schema.
    """
    outputs = ", ".join(["Tensor"] * (4 + len(kept.split(","))))
    torch.library.define(
        f"exlstm::{name}_forward", f"({INPUTS}, bool normalised, bool keep) -> ({outputs})"
    )
    torch.library.define(
        f"exlstm::{name}_backward",
        f"({INPUTS}, Tensor h, {kept}, "
        "Tensor dh, Tensor dc_last, Tensor dn_last, Tensor dm_last, bool normalised) "
        f"-> ({', '.join(['Tensor'] * 8)})",
    )
    torch.library.register_fake(f"exlstm::{name}_backward", new_gradients)
    transforms.register_vmap(f"{name}_forward")
    transforms.register_vmap(f"{name}_backward")


def run(
    name: str,
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    log_i: Float[Tensor, "B T H"],
    log_f: Float[Tensor, "B T H"],
    state: MLSTMState,
    normalised: bool,
) -> tuple[Float[Tensor, "B T H V"], MLSTMState]:
    """The mLSTM by the op registered as `name`."""
    inputs = (q, k, v, log_i, log_f, *state)
    if transforms.needs_gradient(*inputs):
        h, c, n, m = _MLSTM.apply(name, *inputs, normalised)[:4]
    else:
        op = getattr(torch.ops.exlstm, f"{name}_forward")
        h, c, n, m = op(*inputs, normalised, False)[:4]
    return h, MLSTMState(c, n, m) if normalised else MLSTMState(c, state.n, state.m)


def new_gradients(q, k, v, log_i, log_f, c, n, m, *_):
    """The gradients of the inputs, not yet written."""
    return tuple(x.new_empty(x.shape) for x in (q, k, v, log_i, log_f, c, n, m))


class _MLSTM(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(name, q, k, v, log_i, log_f, c, n, m, normalised):
        op = getattr(torch.ops.exlstm, f"{name}_forward")
        return op(q, k, v, log_i, log_f, c, n, m, normalised, True)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name, *tensors, ctx.normalised = inputs
        h, _, _, _, *kept = output
        ctx.mark_non_differentiable(*kept)
        ctx.save_for_backward(*tensors, h, *kept)

    @staticmethod
    def backward(ctx, *d_outputs):
        op = getattr(torch.ops.exlstm, f"{ctx.name}_backward")
        gradients = op(*ctx.saved_tensors, *d_outputs[:4], ctx.normalised)
        return None, *gradients, None
