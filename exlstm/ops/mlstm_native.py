"""The mLSTM by the compiled CPU kernels of `mlstm_cpu.cpp`, as one registered op.

Chunkwise, with a written-out backward pass that is exact for everything, the normaliser and the
states included. The derivation is in docs/math/mlstm.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from exlstm.ops import mlstm_op, native, transforms
from exlstm.ops.mlstm_reference import MLSTMState
from exlstm.shapes import Float

# What is kept for the backward pass: the memories at the start of each chunk but the first, and the
# denominator and the stabiliser of each step.
mlstm_op.define(
    "mlstm", "Tensor c_starts, Tensor n_starts, Tensor denominators, Tensor stabilisers"
)


def mlstm_native(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    log_i: Float[Tensor, "B T H"],
    log_f: Float[Tensor, "B T H"],
    state: MLSTMState,
    normalised: bool,
) -> tuple[Float[Tensor, "B T H V"], MLSTMState]:
    """The mLSTM by compiled kernels; one step is one pass over the memory."""
    return mlstm_op.run("mlstm", q, k, v, log_i, log_f, state, normalised)


def _chunk_length(key: int, value: int) -> int:
    """How many steps a chunk has.

    Inside its chunk a step costs K + V times the length; the memories kept for the backward pass
    take K V / length numbers a step. Measured over whole calls, the fastest of 32, 64 and 128.
    """
    return 32 if key * value < 64 * 64 else 64 if key * value < 256 * 256 else 128


@torch.library.impl("exlstm::mlstm_forward", "cpu")
def _forward(q, k, v, log_i, log_f, c, n, m, normalised, keep):
    outputs = _forward_fake(q, k, v, log_i, log_f, c, n, m, normalised, keep)
    inputs = [x.contiguous() for x in (log_i, log_f, c, n, m)]
    transforms.fill_spare(outputs[4:6])
    kept = outputs[4:] if keep else (None,) * 4
    (q, q_step), (k, k_step), (v, v_step) = (native.steps(x) for x in (q, k, v))
    native.call(
        "mlstm_forward", v.dtype, *_sizes(q, v), normalised, q_step, k_step, v_step,
        q.data_ptr(), k.data_ptr(), v.data_ptr(), *inputs, *outputs[:4], *kept,
    )  # fmt: skip
    return outputs


@torch.library.impl("exlstm::mlstm_backward", "cpu")
def _backward(
    q, k, v, log_i, log_f, c, n, m, h,
    c_starts, n_starts, denominators, stabilisers,
    dh, dc_last, dn_last, dm_last, normalised,
):  # fmt: skip
    inputs = [x.contiguous() for x in (log_i, log_f, c, n, m)]
    kept = (h, c_starts, n_starts, denominators, stabilisers)
    d_outputs = [x.contiguous() for x in (dh, dc_last, dn_last, dm_last)]
    gradients = mlstm_op.new_gradients(q, k, v, *inputs)
    (q, q_step), (k, k_step), (v, v_step) = (native.steps(x) for x in (q, k, v))
    native.call(
        "mlstm_backward", v.dtype, *_sizes(q, v), normalised, q_step, k_step, v_step,
        q.data_ptr(), k.data_ptr(), v.data_ptr(), *inputs, *kept, *d_outputs, *gradients,
    )  # fmt: skip
    return gradients


def _sizes(q: Tensor, v: Tensor) -> tuple[int, ...]:
    time, key, value = q.shape[1], q.shape[-1], v.shape[-1]
    return *q.shape, value, min(_chunk_length(key, value), time)


@torch.library.register_fake("exlstm::mlstm_forward")
def _forward_fake(q, k, v, log_i, log_f, c, n, m, normalised, keep):
    (batch, time, heads, key), value = q.shape, v.shape[-1]
    later = (time - 1) // _chunk_length(key, value)  # chunks but the first
    memories = [transforms.room(batch * heads * later * size) for size in (key * value, key)]
    kept = [*memories, (batch, heads, time), (batch, heads, time)]
    shapes = [v.shape, c.shape, n.shape, m.shape, *(kept if keep else [(0,)] * 4)]
    return tuple(v.new_empty(shape) for shape in shapes)
