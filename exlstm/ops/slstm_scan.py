"""The sLSTM for export: one step as torch's `scan` wants it, so that the length stays open.

It is never chosen, only named: outside an export it is the reference in another layout.
"""

from __future__ import annotations

import torch
from torch import Tensor

from exlstm.ops.scan import Tensors, scan_steps
from exlstm.ops.slstm_reference import SLSTMState, empty_slstm_state, slstm_step, where_state
from exlstm.shapes import Bool, Float


def slstm_scan(
    x: Float[Tensor, "B T H G V"],
    r: Float[Tensor, "H V G V"],
    state: SLSTMState,
    mask: Bool[Tensor, "B T"] | None,
    reset: Bool[Tensor, "B T"] | None,
    forget_gate: str,
) -> tuple[Float[Tensor, "B T H V"], SLSTMState]:
    """The sLSTM step by step. Outputs at masked steps are the state's h."""
    r = r.flatten(2)  # H V (G V): with heads before rows a step is one batched product
    flags = tuple(flag.t()[..., None] for flag in (mask, reset) if flag is not None)  # T B 1

    def step(carry: Tensors, inputs: Tensors) -> tuple[SLSTMState, Float[Tensor, "H B V"]]:
        state = SLSTMState(*carry)
        x_t, *flags_t = inputs
        if reset is not None:
            state = where_state(flags_t[-1], empty_slstm_state(state.h), state)
        gates = x_t + torch.bmm(state.h, r).unflatten(-1, (4, -1))
        new = slstm_step(gates, state, forget_gate)
        state = new if mask is None else where_state(flags_t[0], new, state)
        return state, state.h

    start = SLSTMState(*(part.transpose(0, 1) for part in state))
    end, h = scan_steps(step, start, (x.permute(1, 2, 0, 3, 4), *flags))  # T H B G V
    return h.permute(2, 0, 1, 3), SLSTMState(*(part.transpose(0, 1).clone() for part in end))
