"""The mLSTM by Triton kernels, for GPUs: three registered ops.

Chunkwise with two levels of tiling, exact gradients, any length and size. q, k and v come in their
own dtype, and what is multiplied with them is rounded to bfloat16 if they are; gates, memories and
sums are float32. Kernels are compiled at their first call, and the fastest of a few ways to cut the
work is kept on disk by Triton. No sum depends on the order in which programs run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from exlstm.ops import mlstm_op, transforms
from exlstm.ops.mlstm_reference import MLSTMState
from exlstm.ops.triton_support import filled
from exlstm.shapes import Float

# What is kept for the backward pass: c and n at the start of each chunk; m at the start of each
# tile and at the end; and the step that the m at the end of each chunk is from; then of each step
# denominator, m, and the step that m is from. Steps are counted in the chunk.
mlstm_op.define(
    "mlstm_triton",
    "Tensor c_starts, Tensor n_starts, Tensor tile_m, Tensor chunk_winner, "
    "Tensor denominators, Tensor stabilisers, Tensor winners",
)
torch.library.define(
    "exlstm::mlstm_triton_step",
    f"({mlstm_op.INPUTS}, bool normalised) -> (Tensor, Tensor, Tensor, Tensor)",
)
transforms.register_vmap("mlstm_triton_step")


def mlstm_triton(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    log_i: Float[Tensor, "B T H"],
    log_f: Float[Tensor, "B T H"],
    state: MLSTMState,
    normalised: bool,
) -> tuple[Float[Tensor, "B T H V"], MLSTMState]:
    """The mLSTM by Triton kernels; one step is one pass over the memory."""
    inputs = (q, k, v, log_i, log_f, *state)
    if q.shape[1] > 1 or transforms.needs_gradient(*inputs):
        return mlstm_op.run("mlstm_triton", q, k, v, log_i, log_f, state, normalised)
    h, c, n, m = torch.ops.exlstm.mlstm_triton_step(*inputs, normalised)
    return h, MLSTMState(c, n, m) if normalised else MLSTMState(c, state.n, state.m)


def tiling(key: int, value: int, dtype: torch.dtype) -> tuple[int, int]:
    """How many steps a tile and a chunk have, powers of two.

    Inside its chunk a step costs K + V times the length, and each chunk keeps K V numbers: a larger
    memory wants longer chunks. A tile of float32 is smaller, as it takes twice the room on chip.
    """
    tile = 32 if dtype == torch.float32 else 64
    return tile, 64 if key * value < 64 * 64 else 128 if key * value < 256 * 256 else 256


@torch.library.impl("exlstm::mlstm_triton_forward", ("cpu", "cuda"))
def _forward(*arguments):
    return filled(_forward_fake(*arguments), _launch().forward, arguments)


@torch.library.impl("exlstm::mlstm_triton_backward", ("cpu", "cuda"))
def _backward(*arguments):
    return filled(mlstm_op.new_gradients(*arguments), _launch().backward, arguments)


@torch.library.impl("exlstm::mlstm_triton_step", ("cpu", "cuda"))
def _step(*arguments):
    return filled(_step_fake(*arguments), _launch().step, arguments)


def _launch():
    """The module that has Triton: it is imported at the first call."""
    from exlstm.ops import mlstm_triton_launch

    return mlstm_triton_launch


@torch.library.register_fake("exlstm::mlstm_triton_forward")
def _forward_fake(q, k, v, log_i, log_f, c, n, m, normalised, keep):
    (batch, time, heads, key), value = q.shape, v.shape[-1]
    tile, chunk = tiling(key, value, q.dtype)
    chunks, tiles = -(-time // chunk), -(-time // tile)
    last = (v.new_empty(v.shape), c.new_empty(c.shape), n.new_empty(n.shape), m.new_empty(m.shape))
    if not keep:
        return *last, *(m.new_empty(0) for _ in range(7))
    # Without a normaliser the rest is not written to.
    new = m.new_empty if normalised else m.new_zeros
    return (
        *last,
        m.new_empty(batch, heads, chunks, key, value),
        new(batch, heads, chunks, key),
        new(batch, heads, tiles + 1),
        new((batch, heads, chunks), dtype=torch.int32),
        new(batch, heads, time),
        new(batch, heads, time),
        new((batch, heads, time), dtype=torch.int32),
    )


@torch.library.register_fake("exlstm::mlstm_triton_step")
def _step_fake(q, k, v, log_i, log_f, c, n, m, normalised):
    return tuple(x.new_empty(x.shape) for x in (v, c, n, m))
