r"""The sLSTM's forward and written-out backward pass in plain PyTorch, as one op (`slstm_op.py`).

Only the states are kept; the backward pass recomputes all gates in one product, runs the loop in
reverse for what is truly sequential, and forms the gradient of `r` in one more at the end. The
gradient is exact, through every state, the stabiliser included.

Derivation. A step depends on (log f + m_prev) and i alone, through `m = max(.)`, `f' = exp(log f +
m_prev - m)`, `i' = exp(i - m)`, and so m's share of the gradient goes to whichever was the larger:

    dc += do_h o / n,  dn -= dh h / n                        from h = o c / n
    F = f' (dc c_prev + dn n_prev),  I = i' (dc z + dn)      from c = f' c_prev + i' z, n alike
    M = dm - F - I                                           from m in both exponents
    d(log f + m_prev) = F + [older is larger] M,   di = I + [newer is larger] M
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from exlstm.ops import slstm_op
from exlstm.ops.slstm_reference import SLSTMState, empty_slstm_state, slstm_step, where_state
from exlstm.shapes import Bool, Float


def slstm_sequential(
    x: Float[Tensor, "B T H G V"],
    r: Float[Tensor, "H V G V"],
    state: SLSTMState,
    mask: Bool[Tensor, "B T"] | None,
    reset: Bool[Tensor, "B T"] | None,
    forget_gate: str,
) -> tuple[Float[Tensor, "B T H V"], SLSTMState]:
    """The sLSTM by the registered op. Outputs at masked steps are the state's h."""
    return slstm_op.run("slstm", x, r, state, mask, reset, forget_gate)


# Below, tensors are time first and head second (T H B V), so that a step is one contiguous block
# and its recurrent product one batched matrix product. r becomes H V (G V).


def _time_first(x: Tensor) -> Tensor:
    return x.movedim(0, 2).contiguous()  # B T H ... -> T H B ...


def _batch_first(x: Tensor) -> Tensor:
    return x.movedim(2, 0).contiguous()  # T H B ... -> B T H ...


def _steps(flag: Tensor | None) -> tuple[Tensor, ...] | None:
    """A mask or reset as one (B, 1) column per step."""
    return None if flag is None else flag.t()[..., None].unbind(0)


def _forward(x, r, h0, c0, n0, m0, mask, reset, forget_gate, keep=True):
    batch, time, heads, gates, cells = x.shape
    x_steps = _time_first(x).flatten(3)  # T H B (G V)
    r = r.flatten(2)
    state = SLSTMState(*(s.transpose(0, 1) for s in (h0, c0, n0, m0)))  # H B V
    empty = empty_slstm_state(state.h)
    mask_steps, reset_steps = _steps(mask), _steps(reset)
    states = []
    for t in range(time):
        if reset_steps is not None:
            state = where_state(reset_steps[t], empty, state)
        raw = torch.baddbmm(x_steps[t], state.h, r).view(heads, batch, gates, cells)
        new = slstm_step(raw, state, forget_gate)
        state = new if mask_steps is None else where_state(mask_steps[t], new, state)
        states.append(state)
    h, *others = (_batch_first(torch.stack(s)) for s in zip(*states, strict=True))
    kept = others if keep else [x.new_empty(0) for _ in others]
    return h, *(s[:, -1].clone() for s in others), *kept


def _backward(
    x, r, h0, c0, n0, m0, h, c, n, m, mask, reset, forget_gate,
    dh, dh_last, dc_last, dn_last, dm_last,
):  # fmt: skip
    time = x.shape[1]
    before = _states_before(SLSTMState(h0, c0, n0, m0), SLSTMState(h, c, n, m), reset)
    h_prev, c_prev, n_prev, m_prev = (_time_first(s) for s in before)
    raw = torch.einsum("thbv,hvgw->thbgw", h_prev, r) + _time_first(x)
    i, f, z, o = raw.unbind(3)

    # Everything that does not wait for a later step's gradient, for all steps at once. At a masked
    # step the state kept is not the one these formulas give, hence m, c and n afresh.
    log_f = F.logsigmoid(f) if forget_gate == "sigmoid" else f
    older = log_f + m_prev
    older_wins = (older >= i).to(x.dtype)
    m_t = torch.maximum(older, i)
    f_t, i_t, z, o = torch.exp(older - m_t), torch.exp(i - m_t), torch.tanh(z), torch.sigmoid(o)
    c_t = f_t * c_prev + i_t * z
    n_true = f_t * n_prev + i_t
    n_t = n_true.clamp_min(torch.finfo(x.dtype).tiny)
    o_over_n = o / n_t
    h_over_n = torch.where(n_true < n_t, 0.0, o_over_n * c_t / n_t)  # the floor has no gradient
    slope_f = torch.sigmoid(-f) if forget_gate == "sigmoid" else torch.ones_like(f)
    slope_z = i_t * (1 - z * z)
    slope_o = c_t * o_over_n * (1 - o)

    dh_steps = _time_first(dh)
    r_t = r.flatten(2).mT  # H (G V) V
    d_h, d_c, d_n, d_m = (d.transpose(0, 1) for d in (dh_last, dc_last, dn_last, dm_last))
    mask_steps, reset_steps = _steps(mask), _steps(reset)
    d_raw = torch.empty_like(raw)
    for t in reversed(range(time)):
        d_h = d_h + dh_steps[t]
        d_ct = d_c + d_h * o_over_n[t]
        d_nt = d_n - d_h * h_over_n[t]
        through_f = f_t[t] * (d_ct * c_prev[t] + d_nt * n_prev[t])
        through_i = i_t[t] * (d_ct * z[t] + d_nt)
        through_m = d_m - through_f - through_i
        d_older = through_f + older_wins[t] * through_m
        d_i = through_i + (1 - older_wins[t]) * through_m
        d_step = torch.stack(
            (d_i, d_older * slope_f[t], d_ct * slope_z[t], d_h * slope_o[t]), dim=2, out=d_raw[t]
        )
        if mask_steps is not None:
            d_step.masked_fill_(~mask_steps[t][:, None], 0.0)
        new = SLSTMState(torch.bmm(d_step.flatten(2), r_t), d_ct * f_t[t], d_nt * f_t[t], d_older)
        if mask_steps is not None:
            new = where_state(mask_steps[t], new, SLSTMState(d_h, d_c, d_n, d_m))
        if reset_steps is not None:
            new = SLSTMState(*(d.masked_fill(reset_steps[t], 0.0) for d in new))
        d_h, d_c, d_n, d_m = new
    d_r = torch.einsum("thbv,thbgw->hvgw", h_prev, d_raw)
    d_state = (d.transpose(0, 1).contiguous() for d in (d_h, d_c, d_n, d_m))
    return slstm_op.new_dx(x).copy_(d_raw.movedim(2, 0)), d_r, *d_state


def _states_before(
    start: SLSTMState, states: SLSTMState, reset: Bool[Tensor, "B T"] | None
) -> SLSTMState:
    """The state each step starts from, B T H V: the one before it, or the empty one at a reset."""
    before = SLSTMState(
        *(torch.cat((a[:, None], b[:, :-1]), 1) for a, b in zip(start, states, strict=True))
    )
    if reset is None:
        return before
    return where_state(reset[..., None, None], empty_slstm_state(before.h), before)


slstm_op.register("slstm", "default", 1, _forward, _backward)
