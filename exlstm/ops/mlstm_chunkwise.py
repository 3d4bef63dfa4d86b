r"""The mLSTM chunk by chunk, in plain PyTorch: linear in T, mostly matrix products.

The sequence is cut into chunks of length L. Inside a chunk the parallel form runs on an L x L
matrix; from chunk to chunk only the state is handed on. With `b_t` the sum of log f from the start
of the chunk to t, `log D_tj` as in the parallel form, and (C, n, m) the state at its start,

    m_t   = max(b_t + m, max_j log D_tj)
    num_t = sum_j (q_t k_j) exp(log D_tj - m_t) v_j  +  exp(b_t + m - m_t) q_t C

and the state at the chunk's end takes the weights of its last row (Beck et al. 2024, appendix A.3;
Beck et al. 2025, TFLA, https://arxiv.org/abs/2503.14376). Everything but the two short loops over
chunks is batched over all chunks. The result does not depend on L.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from exlstm.ops.mlstm_reference import (
    MLSTMState,
    mlstm_recurrent,
    normalise,
    older_max,
    segment_sums,
)
from exlstm.shapes import Float

CHUNK_LENGTH = 64


def mlstm_chunkwise(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    log_i: Float[Tensor, "B T H"],
    log_f: Float[Tensor, "B T H"],
    state: MLSTMState,
    normalised: bool,
) -> tuple[Float[Tensor, "B T H V"], MLSTMState]:
    """The mLSTM in chunks of `CHUNK_LENGTH`; one step is the recurrence itself."""
    time = q.shape[1]
    if time == 1:
        return mlstm_recurrent(q, k, v, log_i, log_f, state, normalised)
    length = min(CHUNK_LENGTH, time)
    q = q * q.shape[-1] ** -0.5
    q, k, v = (_chunks(x, length, 0.0) for x in (q, k, v))  # B H N L ...
    # A step that pads the last chunk is an identity, as a masked step is.
    log_i, log_f = _chunks(log_i, length, -torch.inf), _chunks(log_f, length, 0.0)  # B H N L

    log_d = segment_sums(log_f) + log_i[..., None, :]  # B H N L L
    b = log_f.cumsum(-1)
    if normalised:
        m_start, m = _stabilisers(log_d, b, state.m)  # B H N, B H N L
    else:
        m_start, m = torch.zeros_like(b[..., 0]), torch.zeros_like(b)
    d, d0 = torch.exp(log_d - m[..., None]), torch.exp(b + m_start[..., None] - m)

    weighted_k = d[..., -1, :, None] * k
    decay = d0[..., -1]
    c_start, c = _scan(decay[..., None, None], _matmul(weighted_k.mT, v), state.c)
    scores = _matmul(q, k.mT) * d
    h = _matmul(scores, v) + d0[..., None] * _matmul(q, c_start)
    n = state.n
    if normalised:
        n_start, n = _scan(decay[..., None], weighted_k.sum(-2), state.n)
        h = normalise(h, scores.sum(-1) + d0 * _matmul(q, n_start[..., None])[..., 0], m)
    h = h.flatten(2, 3)[:, :, :time].transpose(1, 2)
    return h, MLSTMState(c, n, m[..., -1, -1].clone())


def _chunks(x: Tensor, length: int, padding: float) -> Tensor:
    """Cut B T H ... into B H N L ..., the last chunk padded."""
    missing = -x.shape[1] % length
    if missing:
        x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, missing), value=padding)
    return x.unflatten(1, (-1, length)).movedim(3, 1)


def _stabilisers(
    log_d: Float[Tensor, "B H N L L"], b: Float[Tensor, "B H N L"], m: Float[Tensor, "B H"]
) -> tuple[Float[Tensor, "B H N"], Float[Tensor, "B H N L"]]:
    """The stabiliser at the start of every chunk, and after every step."""
    inside = log_d.max(-1).values
    starts = []
    for b_end, inside_end in zip(b[..., -1].unbind(-1), inside[..., -1].unbind(-1), strict=True):
        starts.append(m)
        m = older_max(b_end + m, inside_end)
    start = torch.stack(starts, dim=-1)
    return start, older_max(b + start[..., None], inside)


def _scan(decay: Tensor, added: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """`state = decay * state + added` over dimension 2 (N): the state before each, and the last."""
    starts = []
    for decay_n, added_n in zip(decay.unbind(2), added.unbind(2), strict=True):
        starts.append(state)
        state = decay_n * state + added_n
    return torch.stack(starts, dim=2), state


class _MatMul(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a, b):
        return a @ b

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, *d_outputs):
        a, b = ctx.saved_tensors
        (d_output,) = d_outputs
        with torch.autocast(d_output.device.type, enabled=False):
            return d_output @ b.mT, a.mT @ d_output


def _matmul(a: Float[Tensor, "*S X Y"], b: Float[Tensor, "*S Y Z"]) -> Float[Tensor, "*S X Z"]:
    """`a @ b`, in full precision also in the backward pass.

    `torch.compile` traces a backward pass under the autocast around the call, whatever the forward
    pass switched off: the gradients of a plain product would be computed in bfloat16.
    """
    return _MatMul.apply(a, b)
