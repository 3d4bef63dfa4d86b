r"""THE MATH of the sLSTM, an LSTM with exponential gates and a normaliser, in plain PyTorch.

Beck et al. 2024, https://arxiv.org/abs/2405.04517, eqs. 8-18, stabilised as in eqs. 15-17. Heads do
not see each other; inside a head every cell sees every output of the step before through `r`, so
there is no parallel form. Any dtype, gradients by autograd.

The stabiliser m, the empty memory and the tie rule are those of `mlstm_reference.py`; here they are
per cell.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from exlstm.ops.mlstm_reference import empty_m, older_max
from exlstm.ops.transforms import exportable
from exlstm.shapes import Bool, Float


@exportable
class SLSTMState(NamedTuple):
    """The sLSTM's memory: the true cell and normaliser are `c * exp(m)` and `n * exp(m)`.

    Attributes:
        h: The last output, which the next step's gates see.
        c: The cell.
        n: The normaliser.
        m: The stabiliser, the logarithm of the scale.
    """

    h: Float[Tensor, "B H V"]
    c: Float[Tensor, "B H V"]
    n: Float[Tensor, "B H V"]
    m: Float[Tensor, "B H V"]


def empty_slstm_state(like: Float[Tensor, "*S"]) -> SLSTMState:
    """The memory before the first step, in the shape, dtype and device of a state tensor."""
    h, c, n = (torch.zeros_like(like) for _ in range(3))
    return SLSTMState(h, c, n, torch.full_like(like, empty_m(like.dtype)))


def slstm_step(gates: Float[Tensor, "*S G V"], state: SLSTMState, forget_gate: str) -> SLSTMState:
    """One step from the four pre-activations, the recurrent part included."""
    _, c, n, m_prev = state
    i, f, z, o = gates.unbind(-2)
    log_f = F.logsigmoid(f) if forget_gate == "sigmoid" else f
    m = older_max(log_f + m_prev, i)
    f_t = torch.exp(log_f + m_prev - m)
    i_t = torch.exp(i - m)
    c = f_t * c + i_t * torch.tanh(z)
    n = f_t * n + i_t
    h = torch.sigmoid(o) * c / n.clamp_min(torch.finfo(n.dtype).tiny)
    return SLSTMState(h, c, n, m)


def where_state(condition: Bool[Tensor, "*C"], yes: SLSTMState, no: SLSTMState) -> SLSTMState:
    """`torch.where` on each part of two states."""
    return SLSTMState(*(torch.where(condition, a, b) for a, b in zip(yes, no, strict=True)))


def slstm_recurrent(
    x: Float[Tensor, "B T H G V"],
    r: Float[Tensor, "H V G V"],
    state: SLSTMState,
    mask: Bool[Tensor, "B T"] | None,
    reset: Bool[Tensor, "B T"] | None,
    forget_gate: str,
) -> tuple[Float[Tensor, "B T H V"], SLSTMState]:
    """The sLSTM step by step, as it is defined. Outputs at masked steps are the state's h."""
    empty = empty_slstm_state(state.h)
    h = []
    for t in range(x.shape[1]):
        if reset is not None:
            state = where_state(reset[:, t, None, None], empty, state)
        recurrent = torch.einsum("bhv,hvgw->bhgw", state.h, r)
        new = slstm_step(x[:, t] + recurrent, state, forget_gate)
        state = new if mask is None else where_state(mask[:, t, None, None], new, state)
        h.append(state.h)
    return torch.stack(h, dim=1), state
