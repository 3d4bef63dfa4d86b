r"""THE MATH of the mLSTM, a linear recurrence with a matrix memory, in plain PyTorch.

Two forms of one function, `mlstm_recurrent` (one step after the other; Beck et al. 2024,
https://arxiv.org/abs/2405.04517, eqs. 19-27) and `mlstm_parallel` (all steps at once, quadratic in
T; appendix A.3, eqs. 71-86). They take the gates as logarithms, which `log_gates` makes. Any dtype,
gradients by autograd. They are slow and are what every faster implementation is measured against.

**Stabiliser.** The memory is kept as `c = C exp(-m)`, `n = N exp(-m)`, with m the largest exponent
so far, so no exponential overflows. The true output does not depend on m.

**The empty memory** is `c = n = 0` with `m = empty_m(dtype)`, the most negative finite number: it
acts as minus infinity (the first step takes `m = i`), yet never gives `inf - inf`.

**Masks and resets are gates**: a masked step has forget gate 1 and input gate 0; a reset is a
forget gate of exactly 0. In logarithms these are 0 and minus infinity, and every form treats them
alike.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from exlstm.ops.transforms import exportable
from exlstm.shapes import Bool, Float

InputGate = Literal["exp", "sigmoid"]
ForgetGate = Literal["sigmoid", "exp"]


@exportable
class MLSTMState(NamedTuple):
    """The mLSTM's memory: the true matrix and normaliser are `c * exp(m)` and `n * exp(m)`.

    With the sigmoid input gate there is no normaliser and no stabiliser: `n` and `m` are zeros.

    Attributes:
        c: The matrix memory.
        n: The normaliser, the same sum with 1 in place of the values.
        m: The stabiliser, the logarithm of the scale.
    """

    c: Float[Tensor, "B H K V"]
    n: Float[Tensor, "B H K"]
    m: Float[Tensor, "B H"]


def empty_m(dtype: torch.dtype) -> float:
    """The stabiliser of an empty memory: minus infinity in effect, but finite."""
    return torch.finfo(dtype).min


def log_gates(
    i: Float[Tensor, "*S"],
    f: Float[Tensor, "*S"],
    mask: Bool[Tensor, "*M"] | None,
    reset: Bool[Tensor, "*M"] | None,
    input_gate: InputGate,
    forget_gate: ForgetGate,
) -> tuple[Float[Tensor, "*S"], Float[Tensor, "*S"]]:
    """The logarithms of both gates, with masks and resets written into them."""
    log_i = F.logsigmoid(i) if input_gate == "sigmoid" else i
    log_f = F.logsigmoid(f) if forget_gate == "sigmoid" else f
    if mask is not None:
        log_i = log_i.masked_fill(~mask, -torch.inf)
        log_f = log_f.masked_fill(~mask, 0.0)
    if reset is not None:
        log_f = log_f.masked_fill(reset, -torch.inf)
    return log_i, log_f


def older_max(old: Float[Tensor, "*S"], new: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """The larger of two exponents, at least `empty_m`; at a tie the gradient goes to the older.

    The rule makes the gradient of the final m well defined, and the same in every form.
    """
    return torch.where(old >= new, old, new).clamp_min(empty_m(old.dtype))


def normalise(
    numerator: Float[Tensor, "*S V"], denominator: Float[Tensor, "*S"], m: Float[Tensor, "*S"]
) -> Float[Tensor, "*S V"]:
    """Eq. 21 in stabilised form: `numerator / max(|denominator|, exp(-m))`.

    There is no epsilon. `exp(-m)` stops short of overflow, and a floor at the smallest normal
    number stands in where it underflows, so that an orthogonal query gives 0, not 0/0.
    """
    info = torch.finfo(m.dtype)
    lower = torch.exp((-m).clamp(max=_log_of_largest(m.dtype))).clamp_min(info.tiny)
    return numerator / torch.maximum(denominator.abs(), lower)[..., None]


def mlstm_recurrent(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    log_i: Float[Tensor, "B T H"],
    log_f: Float[Tensor, "B T H"],
    state: MLSTMState,
    normalised: bool,
) -> tuple[Float[Tensor, "B T H V"], MLSTMState]:
    """The mLSTM step by step, as it is defined; not `normalised` for the sigmoid input gate."""
    q = q * q.shape[-1] ** -0.5
    c, n, m = state
    h = []
    for t in range(q.shape[1]):
        m_prev = m
        m = older_max(log_f[:, t] + m_prev, log_i[:, t]) if normalised else m_prev
        f_t = torch.exp(log_f[:, t] + m_prev - m)
        i_t = torch.exp(log_i[:, t] - m)
        outer = k[:, t, :, :, None] * v[:, t, :, None, :]
        c = f_t[..., None, None] * c + i_t[..., None, None] * outer
        h_t = torch.einsum("bhk,bhkv->bhv", q[:, t], c)
        if normalised:
            n = f_t[..., None] * n + i_t[..., None] * k[:, t]
            h_t = normalise(h_t, torch.einsum("bhk,bhk->bh", q[:, t], n), m)
        h.append(h_t)
    return torch.stack(h, dim=1), MLSTMState(c, n, m)


def mlstm_parallel(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    log_i: Float[Tensor, "B T H"],
    log_f: Float[Tensor, "B T H"],
    state: MLSTMState,
    normalised: bool,
) -> tuple[Float[Tensor, "B T H V"], MLSTMState]:
    """The mLSTM as attention with a decay matrix, all steps at once: T x T numbers per head."""
    q = q * q.shape[-1] ** -0.5
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # B H T ...
    log_i, log_f = log_i.transpose(1, 2), log_f.transpose(1, 2)
    c_0, n_0, m_0 = state

    # What step t sees of step j, and of the initial state: log D_tj and log D_t0.
    log_d = segment_sums(log_f) + log_i[..., None, :]
    log_d0 = log_f.cumsum(-1) + m_0[..., None]
    m = older_max(log_d0, log_d.max(-1).values) if normalised else torch.zeros_like(log_d0)
    d, d0 = torch.exp(log_d - m[..., None]), torch.exp(log_d0 - m)

    scores = (q @ k.mT) * d
    h = scores @ v + d0[..., None] * (q @ c_0)
    if normalised:
        h = normalise(h, scores.sum(-1) + d0 * (q @ n_0[..., None])[..., 0], m)

    # The final state is what a step after the last would see: the last row of D.
    weighted_k = d[..., -1, :, None] * k
    c = d0[..., -1, None, None] * c_0 + weighted_k.mT @ v
    n = d0[..., -1, None] * n_0 + weighted_k.sum(-2) if normalised else n_0
    return h.transpose(1, 2), MLSTMState(c, n, m[..., -1].clone())


def segment_sums(log_f: Float[Tensor, "*S L"]) -> Float[Tensor, "*S L L"]:
    """`S[t, j] = log_f[j+1] + ... + log_f[t]` for j <= t, minus infinity above the diagonal.

    The sums are formed over each segment, not as differences of one running sum: those would
    cancel where a gate is nearly shut, and give `inf - inf` at a reset.
    """
    length = log_f.shape[-1]
    below = torch.ones(length, length, dtype=torch.bool, device=log_f.device).tril()
    # Row t of the expanded matrix holds log_f[t]; the running sum down column j starts below j.
    rows = log_f[..., :, None].expand(*log_f.shape, length)
    sums = rows.masked_fill(~below.tril(-1), 0.0).cumsum(-2)
    return sums.masked_fill(~below, -torch.inf)


def _log_of_largest(dtype: torch.dtype) -> float:
    """A little below log(largest number): exp of it is finite, and so is the gradient."""
    return {torch.float64: 709.0, torch.float32: 88.0}[dtype]
