r"""The mLSTM with the time axis over N processes: what each must know of the steps of the others.

Of its own steps 1 to T each process computes what they do to a memory: with `a_t` the log of the
weight that step t has at the end, and b that of the memory before,

    a_t = log i_t + log f_{t+1} + ... + log f_T        b = log f_1 + ... + log f_T
    m = max_t a_t     c = sum_t exp(a_t - m) k_t v_t     n = sum_t exp(a_t - m) k_t

All get (c, n, m, b) of all, and fold them in the order of time: after chunks 1 and 2 the memory is
`c_1 exp(m_1 + b_2 - m) + c_2 exp(m_2 - m)`, with m the larger of the exponents. No process waits
for another to run its steps, as it would if the memory were handed on from one to the next.

**Work.** For each row and head, forward: 2 T K V FLOPs for c, and 2 (N + rank) K V for the two
folds; twice that backward. By itself the op takes about 4 T K V + 2 T L (K + V) forward, in chunks
of length L: half as much again at most.

**Sent.** `K V + K + 2` numbers for each row and head, once in each direction: each process receives
N - 1 times as much forward, and sends as much backward. It does not depend on T.

**Kept for the backward pass.** What was received, N (K V + K + 2), and a weighted copy of k.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from exlstm.ops.mlstm_reference import MLSTMState, empty_m
from exlstm.ops.sequence_parallel import gather
from exlstm.shapes import Float


def mlstm_start_and_end(
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    log_i: Float[Tensor, "B T H"],
    log_f: Float[Tensor, "B T H"],
    state: MLSTMState,
    normalised: bool,
    group: dist.ProcessGroup,
) -> tuple[MLSTMState, MLSTMState]:
    """The memory before this process's first step, and that after the last step of all.

    Args:
        k: Keys of this process's steps.
        v: Values of them.
        log_i: Input gates of them.
        log_f: Forget gates of them.
        state: The memory before the first step of all.
        normalised: False for the sigmoid input gate.
        group: The processes in the order of time.
    """
    sums = _sums_to_the_end(log_f.transpose(0, 1))  # T+1 B H
    weights, m = _weights(log_i.transpose(0, 1) + sums[1:], normalised)
    weighted_k = weights.transpose(0, 1)[..., None] * k
    c = torch.einsum("bthk,bthv->bhkv", weighted_k, v)
    parts = (c.flatten(-2), weighted_k.sum(1), m[..., None], sums[0][..., None])
    every = gather(torch.cat(parts, dim=-1), group)

    c, n, m, b = every.split([part.shape[-1] for part in parts], dim=-1)
    c, m, b = c.unflatten(-1, state.c.shape[-2:]), m[..., 0], b[..., 0]
    before = dist.get_rank(group)
    # Of rank 0 the first fold is over nothing, but part of its graph: see `gather`.
    start = _fold(state, c[:before], n[:before], m[:before], b[:before], normalised)
    return start, _fold(state, c, n, m, b, normalised)


def _fold(
    state: MLSTMState,
    c: Float[Tensor, "N B H K V"],
    n: Float[Tensor, "N B H K"],
    m: Float[Tensor, "N B H"],
    b: Float[Tensor, "N B H"],
    normalised: bool,
) -> MLSTMState:
    """The memory after chunks that each make (c, n, m) of an empty one and decay another by b."""
    weights, m = _weights(torch.cat((state.m[None], m)) + _sums_to_the_end(b), normalised)
    first, weights = weights[0], weights[1:]
    c = first[..., None, None] * state.c + torch.einsum("nbh,nbhkv->bhkv", weights, c)
    if normalised:
        return MLSTMState(c, first[..., None] * state.n + (weights[..., None] * n).sum(0), m)
    return MLSTMState(c, state.n, state.m)


def _sums_to_the_end(log_f: Float[Tensor, "S B H"]) -> Float[Tensor, "S+1 B H"]:
    """`log_f[s] + ... + log_f[-1]` for each s, and 0 behind the last.

    Sums, not differences of sums: those would be `inf - inf` at a reset.
    """
    return torch.cat((log_f.flip(0).cumsum(0).flip(0), log_f.new_zeros(1, *log_f.shape[1:])))


def _weights(
    exponents: Float[Tensor, "S B H"], normalised: bool
) -> tuple[Float[Tensor, "S B H"], Float[Tensor, "B H"]]:
    """`exp(exponents - m)`, and m: their largest, or 0 where there is no stabiliser."""
    if not normalised:
        return exponents.exp(), torch.zeros_like(exponents[0])
    # Of equal ones the first, the oldest, gets the gradient, as in `older_max`.
    m = exponents.max(0).values.clamp_min(empty_m(exponents.dtype))
    return torch.exp(exponents - m), m
