"""The backward pass of the mLSTM in Triton, last part: the gradients of the gates and of m.

G, the gradient of log D, has been summed over rows and columns of tiles; log f at a step has the
sum over all later rows (its own too) and all earlier columns, put together here from its parts. The
memory at the chunk's end is one more row, the one at its start one more column.
"""
# pyright: basic, reportMissingImports=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

from exlstm.ops.mlstm_triton_weights import NONE, load_block, sum_between


@triton.jit
def gate_gradients_kernel(
    log_f, c_starts, n_starts, dc_ends, dn_ends, tile_m, chunk_winner,
    g_earlier, g_tiles, g_memory, g_later, g_inside, g_crossing, dlog_i, dlog_f,
    T, H,
    K: tl.constexpr, V: tl.constexpr, NORMALISED: tl.constexpr,
    TILE: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """All but the gradient of the m at the chunk's end: program (chunk, head)."""
    chunk, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    TILES: tl.constexpr = CHUNK // TILE
    first = (head // H) * T
    tiles, chunks = tl.cdiv(T, TILE), tl.cdiv(T, CHUNK)
    start = chunk * CHUNK
    at = head * chunks + chunk

    # What goes from the memory at the start to the one at the end, and from each step.
    through = tl.zeros((BLOCK_K,), tl.float32)
    for x in range(0, K, BLOCK_K):
        rows = x + tl.arange(0, BLOCK_K)
        for y in range(0, V, BLOCK_V):
            columns = y + tl.arange(0, BLOCK_V)
            memory = load_block(c_starts + at * K * V, rows, columns, V, 1, K, V)
            through += tl.sum(
                memory * load_block(dc_ends + at * K * V, rows, columns, V, 1, K, V), 1
            )
        if NORMALISED:
            normaliser = tl.load(n_starts + at * K + rows, mask=rows < K, other=0.0)
            through += normaliser * tl.load(dn_ends + at * K + rows, mask=rows < K, other=0.0)
    log_decay = sum_between(log_f + first * H + head % H, start, start + CHUNK, T, H, CHUNK)
    winner = tl.full((), CHUNK, tl.int32)
    if NORMALISED:
        at_m = tile_m + head * (tiles + 1)
        end = tl.minimum((chunk + 1) * TILES, tiles)
        log_decay += tl.load(at_m + chunk * TILES) - tl.load(at_m + end)
        winner = tl.load(chunk_winner + at)
        winner = tl.where(winner == NONE, CHUNK, winner)
    from_start = tl.sum(through, 0) * tl.exp(log_decay)

    step = tl.arange(0, CHUNK)
    t = start + step
    row = head * T + t
    written = tl.load(g_memory + row, mask=t < T, other=0.0)
    sooner = tl.load(g_memory + row - 1, mask=(t < T) & (step > 0), other=0.0)
    others = from_start + tl.sum(tl.where(step == winner, 0.0, written), 0)
    d_i = tl.load(g_later + row, mask=t < T, other=0.0)
    d_i += tl.load(g_inside + row, mask=t < T, other=0.0)
    d_i += tl.where(step == winner, -others, written)
    d_f = tl.where(
        step <= winner,
        from_start + tl.cumsum(sooner, 0),
        -tl.cumsum(written, 0, reverse=True),
    )

    # Inside the chunk: rows and columns of this tile or of others, four ways.
    each, inner = tl.arange(0, TILES), tl.arange(0, TILE)
    place = each[:, None] * TILE + inner[None, :]
    in_time = start + place < T
    row_2d = head * T + start + place
    earlier = tl.load(g_earlier + row_2d, mask=in_time, other=0.0)
    later = tl.load(g_later + row_2d - 1, mask=in_time & (inner > 0)[None, :], other=0.0)
    crossing = tl.load(g_crossing + row_2d - 1, mask=in_time & (inner > 0)[None, :], other=0.0)
    beyond = (each[:, None] > each[None, :]) & (chunk * TILES + each[:, None] < tiles)
    pairs = g_tiles + (head * tiles + chunk * TILES + each[:, None]) * TILES + each[None, :]
    around = tl.sum(tl.load(pairs, mask=beyond, other=0.0), 0)
    sums = tl.cumsum(earlier, 1, reverse=True) + tl.cumsum(later, 1) + crossing + around[:, None]
    d_f += tl.reshape(sums, (CHUNK,))

    gates = (first + t) * H + head % H
    tl.store(dlog_i + gates, d_i, mask=t < T)
    tl.store(dlog_f + gates, d_f, mask=t < T)


@triton.jit
def m_gradient_kernel(chunk_winner, dm_last, dlog_i, dlog_f, dm, T, H, CHUNK: tl.constexpr):
    """Add the gradient of the m at each chunk's end, backwards from the last: program (head).

    It goes along the path of the maximum. The gradient of the m at a chunk's start is that of the
    first log f, as they stand in one sum and nowhere else.
    """
    head = tl.program_id(0).to(tl.int64)
    chunks = tl.cdiv(T, CHUNK)
    first = (head // H) * T
    step = tl.arange(0, CHUNK)
    d_m = tl.load(dm_last + head)
    for back in range(0, chunks):
        chunk = chunks - 1 - back
        winner = tl.load(chunk_winner + head * chunks + chunk)
        winner = tl.where(winner == NONE, CHUNK, winner)
        t = chunk * CHUNK + step
        gates = (first + t) * H + head % H
        d_i = tl.load(dlog_i + gates, mask=t < T, other=0.0)
        d_f = tl.load(dlog_f + gates, mask=t < T, other=0.0)
        d_f += tl.where(step > winner, d_m, 0.0)
        tl.store(dlog_i + gates, d_i + d_m, mask=(t < T) & (step == winner))
        tl.store(dlog_f + gates, d_f, mask=(t < T) & (step > winner))
        d_m = tl.sum(tl.where(step == 0, d_f, 0.0), 0)
    tl.store(dm + head, d_m)
