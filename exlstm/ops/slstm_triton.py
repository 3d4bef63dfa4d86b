"""The sLSTM by Triton kernels, for GPUs: two registered ops, each a kernel with the time loop.

x and r come in their own dtype. What enters a recurrent product, the h before a step or the
gradient of its pre-activations, is rounded to that of x; sums, states and gates are float32. The h
of a state is therefore a number of that dtype too, in float32.

The forward pass keeps 24 bytes for each cell and step: four numbers of the gates (see `step` in
`slstm_triton_cell.py`), and c and n before the step. To keep c, n and m alone, as other
implementations do, is 12, and x, 8 in bfloat16; but then the gates must be computed again, with
products as large as those of the forward pass, and x must live on, which nothing else needs.

The gradient of r is one product after the loop. No sum depends on the order of programs. Triton is
imported at the first call: `torch.library.triton_op` would import it here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from exlstm.ops import slstm_op, transforms
from exlstm.ops.slstm_reference import SLSTMState
from exlstm.ops.triton_support import filled
from exlstm.shapes import Bool, Float

torch.library.define(
    "exlstm::slstm_triton_forward",
    "(Tensor x, Tensor r, Tensor h0, Tensor c0, Tensor n0, Tensor m0, Tensor? mask, Tensor? reset, "
    "str forget_gate, bool keep) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(
    "exlstm::slstm_triton_backward",
    "(Tensor r, Tensor h0, Tensor h, Tensor gates, Tensor cells, Tensor? mask, Tensor? reset, "
    "bool gates_first, Tensor dh, Tensor dh_last, Tensor dc_last, Tensor dn_last, Tensor dm_last) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


def slstm_triton(
    x: Float[Tensor, "B T H G V"],
    r: Float[Tensor, "H V G V"],
    state: SLSTMState,
    mask: Bool[Tensor, "B T"] | None,
    reset: Bool[Tensor, "B T"] | None,
    forget_gate: str,
) -> tuple[Float[Tensor, "B T H V"], SLSTMState]:
    """The sLSTM by Triton kernels. Outputs at masked steps are the state's h."""
    inputs = (x, r, *state)
    if transforms.needs_gradient(*inputs):
        h, *last = _SLSTM.apply(*inputs, mask, reset, forget_gate)[:5]
    else:
        op = torch.ops.exlstm.slstm_triton_forward
        h, *last = op(*inputs, mask, reset, forget_gate, False)[:4]
        last.insert(0, _last(h))
    return h, SLSTMState(*last)


def _last(h: Float[Tensor, "B T H V"]) -> Float[Tensor, "B H V"]:
    return h[:, -1].to(torch.float32, copy=True)


class _SLSTM(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, r, h0, c0, n0, m0, mask, reset, forget_gate):
        op = torch.ops.exlstm.slstm_triton_forward
        h, *others = op(x, r, h0, c0, n0, m0, mask, reset, forget_gate, True)
        return h, _last(h), *others

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, r, h0, _, _, _, mask, reset, _ = inputs
        h, _, _, _, _, *kept = output
        ctx.mark_non_differentiable(*kept)
        ctx.gates_first = slstm_op.is_gates_first(x)
        ctx.save_for_backward(r, h0, h, *kept, mask, reset)

    @staticmethod
    def backward(ctx, *d_outputs):
        op = torch.ops.exlstm.slstm_triton_backward
        gradients = op(*ctx.saved_tensors, ctx.gates_first, *d_outputs[:5])
        return *gradients, None, None, None


@torch.library.impl("exlstm::slstm_triton_forward", ("cpu", "cuda"))
def _forward(*arguments: Any):
    return filled(_forward_fake(*arguments), _launch().forward, arguments)


@torch.library.impl("exlstm::slstm_triton_backward", ("cpu", "cuda"))
def _backward(*arguments: Any):
    return filled(_backward_fake(*arguments), _launch().backward, arguments)


def _launch() -> Any:
    """The module that has Triton: it is imported at the first call."""
    from exlstm.ops import slstm_triton_launch

    return slstm_triton_launch


@torch.library.register_fake("exlstm::slstm_triton_forward")
def _forward_fake(x, r, h0, c0, n0, m0, mask, reset, forget_gate, keep):
    """h, the last c, n and m; then, cell by cell, the gates' four numbers and c and n before."""
    batch, time, heads, _, cells = x.shape
    every = (batch, time, heads, cells)
    kept = [(*every, count) if keep else (0,) for count in (4, 2)]
    last = (c0.new_empty(c0.shape) for _ in range(3))
    return x.new_empty(every), *last, *(c0.new_empty(shape) for shape in kept)


@torch.library.register_fake("exlstm::slstm_triton_backward")
def _backward_fake(r, h0, h, gates, cells, mask, reset, gates_first, *_):
    batch, time, heads, size = h.shape
    order = (4, heads) if gates_first else (heads, 4)
    dx = h.new_empty(batch, time, *order, size)
    d_state = (h0.new_empty(h0.shape) for _ in range(4))
    return dx.transpose(2, 3) if gates_first else dx, r.new_empty(r.shape), *d_state


for _name in ("forward", "backward"):
    transforms.register_vmap(f"slstm_triton_{_name}")
