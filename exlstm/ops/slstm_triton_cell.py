"""One step of the sLSTM's cells and its gradient, for the Triton kernels.

The formulas are those of `slstm_reference.py` and `slstm_sequential.py`, in float32. `tl.exp` alone
is taken from the hardware: its tanh has 11 bits, and 1 + exp(-f) loses a large f.
"""
# pyright: basic, reportMissingImports=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

LOWEST = tl.constexpr(-3.4028234663852886e38)  # the m of an empty memory


@triton.jit
def _tanh(x):
    a, square = tl.abs(x), x * x
    e = tl.exp(-2.0 * a)
    large = (1.0 - e) / (1.0 + e)
    small = -5.70498872745e-3
    small = small * square + 2.06390887954e-2
    small = small * square - 5.37397155531e-2
    small = small * square + 1.33314422036e-1
    small = small * square - 3.33332819422e-1
    return tl.where(a < 0.625, x * square * small + x, tl.where(x < 0.0, -large, large))


@triton.jit
def _sigmoid(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0.0, e, 1.0) / (1.0 + e)


@triton.jit
def _log_sigmoid(x):
    """min(x, 0) - log(1 + e), e = exp(-|x|), where log(1 + e) = 2 atanh(e / (2 + e))."""
    s = tl.exp(-tl.abs(x))
    s = s / (2.0 + s)
    square = s * s
    atanh = 1.0 / 15
    atanh = atanh * square + 1.0 / 13
    atanh = atanh * square + 1.0 / 11
    atanh = atanh * square + 1.0 / 9
    atanh = atanh * square + 1.0 / 7
    atanh = atanh * square + 1.0 / 5
    atanh = atanh * square + 1.0 / 3
    atanh = atanh * square + 1.0
    return tl.where(x < 0.0, x, 0.0) - 2.0 * s * atanh


@triton.jit
def _scales(lead):
    """The gates in effect, f' and i': that of the larger exponent is 1. NaN goes to f'."""
    smaller = tl.exp(-tl.abs(lead))
    return tl.where(lead <= 0.0, 1.0, smaller), tl.where(lead <= 0.0, smaller, 1.0)


@triton.jit
def _floored(n):
    return tl.maximum(n, 1.1754943508222875e-38)


@triton.jit
def step(i, f, z, o, c, n, m, EXP_FORGET: tl.constexpr):
    """One step from the pre-activations: h, c, n, m, and what its gradient needs of the gates.

    That is by how much the newer exponent i leads the older, log f + m; the slope of log f; and z
    and o, activated. With the c and n before they give everything, m included.
    """
    if EXP_FORGET:
        older, slope_f = f + m, tl.full(f.shape, 1.0, tl.float32)
    else:
        older, slope_f = _log_sigmoid(f) + m, _sigmoid(-f)
    lead = i - older
    m = tl.where(lead <= 0.0, older, i)
    f, i = _scales(lead)
    z, o = _tanh(z), _sigmoid(o)
    c = f * c + i * z
    n = f * n + i
    return o * c / _floored(n), c, n, m, lead, slope_f, z, o


@triton.jit
def step_back(lead, slope_f, z, o, c_before, n_before, d_h, d_c, d_n, d_m):
    """The gradients of the four pre-activations, and of c, n, m before the step."""
    f, i = _scales(lead)
    c = f * c_before + i * z
    n_true = f * n_before + i
    n = _floored(n_true)
    h_by_c = o / n
    d_c += d_h * h_by_c
    d_n -= d_h * tl.where(n_true < n, 0.0, h_by_c * c / n)  # the floor has no gradient
    through_f = f * (d_c * c_before + d_n * n_before)
    through_i = i * (d_c * z + d_n)
    through_m = d_m - through_f - through_i
    d_older = through_f + tl.where(lead <= 0.0, through_m, 0.0)
    d_i = through_i + tl.where(lead <= 0.0, 0.0, through_m)
    d_z = d_c * i * (1.0 - z * z)
    d_o = d_h * h_by_c * c * (1.0 - o)
    return d_i, d_older * slope_f, d_z, d_o, d_c * f, d_n * f, d_older


# What the backward pass needs lies cell by cell, two or four numbers each, and is read and written
# at once: each tensor that is costs a pass through shared memory, two barriers, in every step.


@triton.jit
def load_two(at, real):
    """Two tiles of what lies in one, cell by cell."""
    return tl.split(tl.load(at, real, 0.0).reshape(at.shape[0], at.shape[1] // 2, 2))


@triton.jit
def store_two(at, real, a, b):
    """Store two tiles in one, cell by cell."""
    tl.store(at, tl.join(a, b).reshape(a.shape[0], 2 * a.shape[1]), real)


@triton.jit
def load_four(at, real):
    """Four tiles of what lies in one, cell by cell."""
    abcd = tl.load(at, real, 0.0).reshape(at.shape[0], at.shape[1] // 4, 2, 2)
    ac, bd = tl.split(abcd)
    a, c = tl.split(ac)
    b, d = tl.split(bd)
    return a, b, c, d


@triton.jit
def store_four(at, real, a, b, c, d):
    """Store four tiles in one, cell by cell."""
    abcd = tl.join(tl.join(a, c), tl.join(b, d))
    tl.store(at, abcd.reshape(a.shape[0], 4 * a.shape[1]), real)


@triton.jit
def side_by_side(a, b, c, d):
    """Four tiles in one, tile by tile."""
    abcd = tl.permute(tl.join(tl.join(a, c), tl.join(b, d)), (0, 2, 3, 1))
    return abcd.reshape(a.shape[0], 4 * a.shape[1])
