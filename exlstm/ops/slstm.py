"""The public sLSTM op: what it means, what it accepts, which implementation runs."""

from __future__ import annotations

import torch
from torch import Tensor

from exlstm.ops.backend import choose
from exlstm.ops.checks import check_choice, check_shapes, check_steps, compute_dtype, mixed_dtype
from exlstm.ops.mlstm_reference import ForgetGate
from exlstm.ops.sequence_parallel import sequence_group
from exlstm.ops.slstm_reference import SLSTMState, empty_slstm_state
from exlstm.shapes import Bool, Float


def slstm(
    x: Float[Tensor, "B T H G V"],
    r: Float[Tensor, "H V G V"],
    state: SLSTMState | None = None,
    *,
    reset: Bool[Tensor, "B T"] | None = None,
    mask: Bool[Tensor, "B T"] | None = None,
    forget_gate: ForgetGate = "sigmoid",
    backend: str | None = None,
) -> tuple[Float[Tensor, "B T H V"], SLSTMState]:
    r"""Run the sLSTM, an LSTM with exponential gates and a normaliser, over a sequence.

    For each batch row and head, with the four pre-activations
    $(i, f, z, o)_t = x_t + h_{t-1} R$:

    $$
    c_t = \sigma(f_t)\, c_{t-1} + e^{i_t} \tanh(z_t), \qquad
    n_t = \sigma(f_t)\, n_{t-1} + e^{i_t}, \qquad
    h_t = \sigma(o_t)\, \frac{c_t}{n_t}
    $$

    Calls can be chained through `state`: pieces give what the whole gives. `T == 1` is a decoding
    step.

    Args:
        x: What the input gives the pre-activations, bias included; gates in the order i, f, z, o.
        r: The recurrent weights: from cell (first V) to gate and cell (last V), within each head.
        state: Where to continue from. `None` is the empty memory.
        reset: Where True, the memory is emptied before the step.
        mask: Where False, the step changes no state and its output is zero.
        forget_gate: `"sigmoid"`, or `"exp"`: $e^{f_t}$.
        backend: A name from `backends("slstm")` runs that one or raises. `None` takes the fastest
            that can run the call.

    Returns:
        The outputs, in the dtype of `x`, and the state after step T, in float32 (float64 for
        float64 inputs). Gradients flow through all of it. No input is written to.

    Raises:
        ValueError: Shapes, dtypes or options are not as above; the message names the value. Or the
            time axis is split over processes, by `sequence_parallel`.
        BackendError: `backend` was named and cannot run these inputs; the message says why.

    Numerics:
        Any finite gate value is safe, values and gradients. Computed in float32 (float64 for
        float64 inputs) whatever the input dtype; only the backend "triton" rounds what enters a
        recurrent product, the h before a step, to the dtype of `x`.

    Example:
        >>> x, r = torch.randn(2, 10, 4, 4, 8), torch.randn(4, 8, 4, 8) / 8
        >>> h, state = slstm(x, r)
        >>> h_next, state = slstm(x[:, :1], r, state)
        >>> h.shape, h_next.shape, state.c.shape
        (torch.Size([2, 10, 4, 8]), torch.Size([2, 1, 4, 8]), torch.Size([2, 4, 8]))

    Reference:
        Beck et al., xLSTM (2024), https://arxiv.org/abs/2405.04517, eqs. 8-18.
    """
    if sequence_group() is not None:
        raise ValueError(
            "slstm: the time axis cannot be split over processes (sequence_parallel), since a step "
            "needs the output of the step before"
        )
    sizes = check_shapes("slstm", x=(x, "B T H 4 V"))
    check_shapes("slstm", sizes, mixed_dtype(r, x), r=(r, "H V 4 V"))
    check_steps("slstm", sizes, mask=mask, reset=reset)
    check_choice("forget_gate", forget_gate, ("sigmoid", "exp"))
    run = choose("slstm", backend, x, r)

    dtype = compute_dtype(x)
    batch, heads, cells = (sizes[letter] for letter in "BHV")
    start = empty_slstm_state(x.new_zeros(batch, heads, cells, dtype=dtype))
    if state is not None:
        start = SLSTMState(*state)
        parts = {name: (part, "B H V") for name, part in start._asdict().items()}
        check_shapes("slstm state", sizes, dtype, **parts)

    with torch.autocast(x.device.type, enabled=False):
        h, end = run(x, r, start, mask, reset, forget_gate)
        if mask is not None:
            h = h.masked_fill(~mask[..., None, None], 0.0)
        return h.to(x.dtype), end
