"""One step of the mLSTM in Triton, for decoding: the memory is read once and written once."""
# pyright: basic, reportMissingImports=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

from exlstm.ops.mlstm_triton_weights import EMPTY_M, lower_bound


@triton.jit
def step_kernel(
    q, k, v, log_i, log_f, c, n, m, h, c_new, n_new, m_new, H, scale,
    q_row, k_row, v_row,
    K: tl.constexpr, V: tl.constexpr, NORMALISED: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Program (head, block of V). `q_row` and so on: from one row of the batch to the next."""
    head, block_v = tl.program_id(0).to(tl.int64), tl.program_id(1)
    q += (head // H) * q_row + (head % H) * K
    k += (head // H) * k_row + (head % H) * K
    v += (head // H) * v_row + (head % H) * V
    columns = block_v * BLOCK_V + tl.arange(0, BLOCK_V)
    value = tl.load(v + columns, mask=columns < V, other=0.0).to(tl.float32)

    before = tl.load(m + head)
    opened, kept = tl.load(log_i + head), tl.load(log_f + head) + before
    after = before
    if NORMALISED:
        after = tl.maximum(tl.maximum(kept, opened), EMPTY_M)
    opened, kept = tl.exp(opened - after), tl.exp(kept - after)

    numerator = tl.zeros((BLOCK_V,), tl.float32)
    denominator = tl.zeros((BLOCK_K,), tl.float32)
    for x in range(0, K, BLOCK_K):
        rows = x + tl.arange(0, BLOCK_K)
        query = tl.load(q + rows, mask=rows < K, other=0.0).to(tl.float32) * scale
        key = tl.load(k + rows, mask=rows < K, other=0.0).to(tl.float32) * opened
        inside = (rows[:, None] < K) & (columns[None, :] < V)
        at = head * K * V + rows[:, None] * V + columns[None, :]
        memory = tl.load(c + at, mask=inside, other=0.0)
        memory = memory * kept + key[:, None] * value[None, :]
        tl.store(c_new + at, memory, mask=inside)
        numerator += tl.sum(memory * query[:, None], 0)
        normaliser = tl.load(n + head * K + rows, mask=rows < K, other=0.0)
        if NORMALISED:
            normaliser = normaliser * kept + key
            denominator += normaliser * query
        tl.store(n_new + head * K + rows, normaliser, mask=(rows < K) & (block_v == 0))
    if NORMALISED:
        numerator /= tl.maximum(tl.abs(tl.sum(denominator, 0)), lower_bound(after))
    tl.store(h + head * V + columns, numerator, mask=columns < V)
    tl.store(m_new + head, after, mask=block_v == 0)
