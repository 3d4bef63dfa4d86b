"""The mLSTM for export: chunks of the parallel form in a `scan`, for any length, linear in it.

It is never chosen, only named: outside an export `mlstm_chunkwise` does the same with less work.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from exlstm.ops.mlstm_reference import MLSTMState, mlstm_parallel, mlstm_recurrent
from exlstm.ops.scan import Tensors, scan_steps
from exlstm.shapes import Float

CHUNK = 32
"""Steps a chunk, L: every call computes a whole number of chunks."""


def mlstm_scan(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    log_i: Float[Tensor, "B T H"],
    log_f: Float[Tensor, "B T H"],
    state: MLSTMState,
    normalised: bool,
) -> tuple[Float[Tensor, "B T H V"], MLSTMState]:
    """The mLSTM in chunks; the last is filled up with steps that change nothing, as masks do."""
    time = q.shape[1]
    if time == 1:
        return mlstm_recurrent(q, k, v, log_i, log_f, state, normalised)

    # Written so that an export sees the lengths cancel: T + missing = N L, and N L - missing = T.
    number = (time + CHUNK - 1) // CHUNK
    missing = number * CHUNK - time

    def chunks(x: Float[Tensor, "B T *S"], fill: float) -> Float[Tensor, "N B L *S"]:
        x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, missing), value=fill)
        return x.unflatten(1, (number, CHUNK)).transpose(0, 1)

    def step(carry: Tensors, inputs: Tensors) -> tuple[MLSTMState, Float[Tensor, "B L H V"]]:
        q, k, v, log_i, log_f = inputs
        h, state = mlstm_parallel(q, k, v, log_i, log_f, MLSTMState(*carry), normalised)
        return state, h

    fills = ((q, 0.0), (k, 0.0), (v, 0.0), (log_i, -torch.inf), (log_f, 0.0))
    end, h = scan_steps(step, state, tuple(chunks(x, fill) for x, fill in fills))
    h = F.pad(h.transpose(0, 1).flatten(1, 2), (0, 0, 0, 0, 0, -missing))
    return h, MLSTMState(*end)
