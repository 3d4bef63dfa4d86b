"""The backward pass of the mLSTM in Triton, first part: the division and the memories.

The derivation is in docs/math/mlstm.md.
"""
# pyright: basic, reportMissingImports=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

from exlstm.ops.mlstm_triton_weights import (
    NONE,
    load_block,
    lower_bound,
    product,
)


@triton.jit
def division_kernel(
    h, dh, denominators, stabilisers, winners, inverses, d_denominators, balanced_winners,
    T, H, V: tl.constexpr, TILE: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Through h = num / max(|den|, exp(-m)): 1 / max, and d den; program (tile, head).

    A row whose maximum is |den| is a ratio of two sums with the same weights: its gradients of
    them sum to zero. The others lose their winner. At a tie each side has half.
    """
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    inner = tl.arange(0, TILE)
    t = tile * TILE + inner
    at = ((head // H) * T + tile * TILE) * H * V + (head % H) * V
    total = tl.zeros((TILE,), tl.float32)
    for x in range(0, V, BLOCK_V):
        part = x + tl.arange(0, BLOCK_V)
        outputs = load_block(h + at, inner, part, H * V, 1, T - tile * TILE, V)
        gradients = load_block(dh + at, inner, part, H * V, 1, T - tile * TILE, V)
        total += tl.sum(outputs.to(tl.float32) * gradients.to(tl.float32), 1)
    row = head * T + t
    denominator = tl.load(denominators + row, mask=t < T, other=0.0)
    lower = lower_bound(tl.load(stabilisers + row, mask=t < T, other=0.0))
    winner = tl.load(winners + row, mask=t < T, other=NONE)
    size = tl.abs(denominator)
    inverse = 1.0 / tl.maximum(size, lower)
    share = tl.where(size > lower, 1.0, tl.where(size == lower, 0.5, 0.0))
    sign = tl.where(denominator > 0, 1.0, tl.where(denominator < 0, -1.0, 0.0))
    tl.store(inverses + row, inverse, mask=t < T)
    tl.store(d_denominators + row, -total * inverse * sign * share, mask=t < T)
    tl.store(balanced_winners + row, tl.where(size > lower, winner, NONE), mask=t < T)


@triton.jit
def load_rows(
    inverses, d_denominators, stabilisers, row, start, T,
    NORMALISED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Of each step of a tile: 1 / max, d den, and m; past the end m is infinite, all weights 0."""
    t = start + tl.arange(0, TILE)
    if NORMALISED:
        return (
            tl.load(inverses + row + t, mask=t < T, other=0.0),
            tl.load(d_denominators + row + t, mask=t < T, other=0.0),
            tl.load(stabilisers + row + t, mask=t < T, other=float("inf")),
        )
    else:
        return (
            tl.full((TILE,), 1.0, tl.float32),
            tl.zeros((TILE,), tl.float32),
            tl.where(t < T, 0.0, float("inf")),
        )


@triton.jit
def memory_gradients_kernel(
    q, dh, log_f, tile_m, stabilisers, inverses, d_denominators, dc_last, dn_last,
    dc_ends, dn_ends, dc, dn,
    T, q_step, H, scale,
    K: tl.constexpr, V: tl.constexpr, NORMALISED: tl.constexpr,
    TILE: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Walk backwards with a block of dc and dn; they are kept at the end of each chunk."""
    head, block_k, block_v = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    tiles, chunks = tl.cdiv(T, TILE), tl.cdiv(T, CHUNK)
    first = (head // H) * T
    last = (tiles - 1) * TILE
    log_f += first * H + head % H
    q += (first + last) * q_step + (head % H) * K
    dh += (first + last) * H * V + (head % H) * V
    inner = tl.arange(0, TILE)
    rows = block_k * BLOCK_K + tl.arange(0, BLOCK_K)
    columns = block_v * BLOCK_V + tl.arange(0, BLOCK_V)
    in_c = (rows[:, None] < K) & (columns[None, :] < V)
    in_n = (rows < K) & (block_v == 0)
    at_c = rows[:, None] * V + columns[None, :]

    d_memory = tl.load(dc_last + head * K * V + at_c, mask=in_c, other=0.0)
    d_normaliser = tl.load(dn_last + head * K + rows, mask=rows < K, other=0.0)
    for back in range(0, tiles):
        here = last - back * TILE
        chunk = head * chunks + here // CHUNK
        ends = ((here + TILE) % CHUNK == 0) | (back == 0)
        tl.store(dc_ends + chunk * K * V + at_c, d_memory, mask=in_c & ends)
        if NORMALISED:
            tl.store(dn_ends + chunk * K + rows, d_normaliser, mask=in_n & ends)

        t = here + inner
        own_f = tl.load(log_f + t * H, mask=t < T, other=0.0)
        inverse, d_denominator, m = load_rows(
            inverses, d_denominators, stabilisers, head * T, here, T, NORMALISED, TILE
        )
        prefix, through = tl.cumsum(own_f, 0), tl.sum(own_f, 0)
        if NORMALISED:
            at_m = tile_m + head * (tiles + 1) + here // TILE
            m_here = tl.load(at_m)
            prefix += m_here
            through += m_here - tl.load(at_m + 1)
        from_start = tl.exp(prefix - m) * scale
        decay = tl.exp(through)
        queries = load_block(q, rows, inner, 1, q_step, K, T - here).to(tl.float32)
        gradients = load_block(dh, inner, columns, H * V, 1, T - here, V)
        d_memory = product(queries * (from_start * inverse)[None, :], gradients, d_memory * decay)
        if NORMALISED:
            weighted = queries * (from_start * d_denominator)[None, :]
            d_normaliser = d_normaliser * decay + tl.sum(weighted, 1)
        q -= TILE * q_step
        dh -= TILE * H * V

    tl.store(dc + head * K * V + at_c, d_memory, mask=in_c)
    tl.store(dn + head * K + rows, d_normaliser, mask=in_n)
