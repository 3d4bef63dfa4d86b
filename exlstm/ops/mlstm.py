"""The public mLSTM op: what it means, what it accepts, which implementation runs."""

from __future__ import annotations

import torch
from torch import Tensor

from exlstm.ops.backend import choose
from exlstm.ops.checks import check_choice, check_shapes, check_steps, compute_dtype, mixed_dtype
from exlstm.ops.mlstm_reference import ForgetGate, InputGate, MLSTMState, empty_m, log_gates
from exlstm.ops.mlstm_sequence_parallel import mlstm_start_and_end
from exlstm.ops.sequence_parallel import sequence_group
from exlstm.shapes import Bool, Float


def mlstm(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    i: Float[Tensor, "B T H"],
    f: Float[Tensor, "B T H"],
    state: MLSTMState | None = None,
    *,
    reset: Bool[Tensor, "B T"] | None = None,
    mask: Bool[Tensor, "B T"] | None = None,
    input_gate: InputGate = "exp",
    forget_gate: ForgetGate = "sigmoid",
    backend: str | None = None,
) -> tuple[Float[Tensor, "B T H V"], MLSTMState]:
    r"""Run the mLSTM, a linear recurrence with a matrix memory, over a sequence.

    For each batch row and head, with $\tilde q_t = q_t / \sqrt K$:

    $$
    C_t = \sigma(f_t)\, C_{t-1} + e^{i_t} k_t v_t^\top, \qquad
    n_t = \sigma(f_t)\, n_{t-1} + e^{i_t} k_t, \qquad
    h_t = \frac{C_t^\top \tilde q_t}{\max(|n_t^\top \tilde q_t|,\, 1)}
    $$

    Calls can be chained through `state`: pieces give what the whole gives. `T == 1` is a decoding
    step.

    Args:
        q: Queries. Scaled by `K ** -0.5` inside; pass them unscaled.
        k: Keys.
        v: Values.
        i: Input-gate pre-activations.
        f: Forget-gate pre-activations; large means remember.
        state: Where to continue from. `None` is the empty memory.
        reset: Where True, the memory is emptied before the step.
        mask: Where False, the step changes no state and its output is zero.
        input_gate: `"exp"`, or `"sigmoid"`: $\sigma(i_t)$, without normaliser and stabiliser
            (mLSTMsig, $h_t = C_t^\top \tilde q_t$; the state's `n` and `m` are zeros).
        forget_gate: `"sigmoid"`, or `"exp"`: $e^{f_t}$.
        backend: A name from `backends("mlstm")` runs that one or raises. `None` takes the fastest
            that can run the call.

    Returns:
        The outputs, in the dtype of `v`, and the state after step T, in float32 (float64 for
        float64 inputs). Gradients flow through all of it. No input is written to.

    Raises:
        ValueError: Shapes, dtypes or options are not as above; the message names the value.
        BackendError: `backend` was named and cannot run these inputs; the message says why.

    Numerics:
        Any finite gate value is safe, values and gradients, except with `input_gate="sigmoid"` and
        `forget_gate="exp"` together: that memory has no stabiliser and can truly overflow.
        Computed in float32 (float64 for float64 inputs) whatever the input dtype; only the backend
        "triton" multiplies float16 and bfloat16 inputs as they are, and sums in float32.

    Example:
        >>> q, k, v = (torch.randn(2, 10, 4, 8) for _ in range(3))
        >>> i, f = torch.randn(2, 10, 4), torch.randn(2, 10, 4)
        >>> h, state = mlstm(q, k, v, i, f)
        >>> h_next, state = mlstm(q[:, :1], k[:, :1], v[:, :1], i[:, :1], f[:, :1], state)
        >>> h.shape, h_next.shape, state.c.shape
        (torch.Size([2, 10, 4, 8]), torch.Size([2, 1, 4, 8]), torch.Size([2, 4, 8, 8]))

    Reference:
        Beck et al., xLSTM (2024), https://arxiv.org/abs/2405.04517, eqs. 19-27.
    """
    sizes = check_shapes("mlstm", q=(q, "B T H K"), k=(k, "B T H K"), v=(v, "B T H V"))
    check_shapes("mlstm", sizes, mixed_dtype(i, v), i=(i, "B T H"), f=(f, "B T H"))
    check_steps("mlstm", sizes, mask=mask, reset=reset)
    check_choice("input_gate", input_gate, ("exp", "sigmoid"))
    check_choice("forget_gate", forget_gate, ("sigmoid", "exp"))
    run = choose("mlstm", backend, q, k, v, i, f)

    normalised = input_gate == "exp"
    dtype = compute_dtype(v)
    start = _start(state, sizes, v.new_empty(0, dtype=dtype), normalised)
    mask_h, reset_h = (None if x is None else x[..., None] for x in (mask, reset))
    with torch.autocast(v.device.type, enabled=False):
        log_i, log_f = log_gates(i.to(dtype), f.to(dtype), mask_h, reset_h, input_gate, forget_gate)
        rest = (log_i, log_f, start, normalised)
        if (group := sequence_group()) is None:
            h, end = run(q, k, v, *rest)
        else:
            start, end = mlstm_start_and_end(k.to(dtype), v.to(dtype), *rest, group)
            h, _ = run(q, k, v, log_i, log_f, start, normalised)
        if mask is not None:
            h = h.masked_fill(~mask[..., None, None], 0.0)
        return h.to(v.dtype), end


def _start(
    state: MLSTMState | None, sizes: dict[str, int], like: Tensor, normalised: bool
) -> MLSTMState:
    """The state to start from: the one given, checked, or the empty memory."""
    batch, heads, key, value = (sizes[letter] for letter in "BHKV")
    if state is None:
        m = like.new_full((batch, heads), empty_m(like.dtype) if normalised else 0.0)
        c, n = like.new_zeros(batch, heads, key, value), like.new_zeros(batch, heads, key)
        return MLSTMState(c, n, m)
    state = MLSTMState(*state)
    check_shapes(
        "mlstm state", sizes, like.dtype,
        c=(state.c, "B H K V"), n=(state.n, "B H K"), m=(state.m, "B H"),
    )  # fmt: skip
    if normalised:
        return state
    return MLSTMState(state.c, like.new_zeros(batch, heads, key), like.new_zeros(batch, heads))
