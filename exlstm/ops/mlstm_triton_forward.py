"""The forward pass of the mLSTM in Triton: the memories at the chunks' starts, then the outputs."""
# pyright: basic, reportMissingImports=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

from exlstm.ops.mlstm_triton_weights import (
    NONE,
    load_block,
    load_gate,
    log_weights_inside,
    log_weights_to_end,
    lower_bound,
    older_max,
    product,
)


@triton.jit
def memories_kernel(
    k, v, log_i, log_f, c, n, m,
    c_starts, n_starts, tile_m, tile_winner, chunk_winner, c_last, n_last, m_last,
    T, k_step, v_step, H,
    K: tl.constexpr, V: tl.constexpr, NORMALISED: tl.constexpr,
    TILE: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Walk over the sequence with a block of the memory: program (head, block of K, block of V).

    Kept are c and n at the start of each chunk, m at the start of each tile and at the end, and
    which step of the chunk (-1: its start) that m is from.
    """
    head, block_k, block_v = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    first = (head // H) * T
    log_i += first * H + head % H
    log_f += first * H + head % H
    k += first * k_step + (head % H) * K
    v += first * v_step + (head % H) * V
    inner = tl.arange(0, TILE)
    rows = block_k * BLOCK_K + tl.arange(0, BLOCK_K)
    columns = block_v * BLOCK_V + tl.arange(0, BLOCK_V)
    in_c = (rows[:, None] < K) & (columns[None, :] < V)
    in_n = (rows < K) & (block_v == 0)
    is_first = (block_k == 0) & (block_v == 0)
    at_c = rows[:, None] * V + columns[None, :]
    tiles, chunks = tl.cdiv(T, TILE), tl.cdiv(T, CHUNK)

    memory = tl.load(c + head * K * V + at_c, mask=in_c, other=0.0)
    normaliser = tl.load(n + head * K + rows, mask=rows < K, other=0.0)
    scale = tl.load(m + head)
    winner = tl.full((), -1, tl.int32)
    for tile in range(0, tiles):
        chunk = head * chunks + (tile * TILE) // CHUNK
        starts = (tile * TILE) % CHUNK == 0
        winner = tl.where(starts, -1, winner)
        tl.store(c_starts + chunk * K * V + at_c, memory, mask=in_c & starts)
        if NORMALISED:
            tl.store(n_starts + chunk * K + rows, normaliser, mask=in_n & starts)
            tl.store(tile_m + head * (tiles + 1) + tile, scale, mask=is_first)
            tl.store(tile_winner + head * tiles + tile, winner, mask=is_first)

        here = tile * TILE
        log_w = log_weights_to_end(log_i, log_f, here, T, H, TILE)
        through = tl.sum(load_gate(log_f, here, T, H, TILE, 0.0), 0) + scale
        if NORMALISED:
            largest, which = tl.max(
                log_w, 0, return_indices=True, return_indices_tie_break_left=True
            )
            scale, winner = older_max(through, winner, largest, here % CHUNK + which)
        weights = tl.exp(log_w - scale)
        decay = tl.exp(through - scale)
        keys = load_block(k, rows, inner, 1, k_step, K, T - here)
        values = load_block(v, inner, columns, v_step, 1, T - here, V)
        k += TILE * k_step
        v += TILE * v_step
        weighted = keys.to(tl.float32) * weights[None, :]
        memory = product(weighted, values, memory * decay)
        if NORMALISED:
            normaliser = normaliser * decay + tl.sum(weighted, 1)
            ends = (here + TILE) % CHUNK == 0
            tl.store(chunk_winner + chunk, winner, mask=is_first & (ends | (tile == tiles - 1)))

    tl.store(c_last + head * K * V + at_c, memory, mask=in_c)
    tl.store(n_last + head * K + rows, normaliser, mask=in_n)
    tl.store(m_last + head, scale, mask=is_first)
    if NORMALISED:
        tl.store(tile_m + head * (tiles + 1) + tiles, scale, mask=is_first)


@triton.jit
def outputs_kernel(
    q, k, v, log_i, log_f, c_starts, n_starts, tile_m, tile_winner,
    h, denominators, stabilisers, winners,
    T, q_step, k_step, v_step, H, scale,
    K: tl.constexpr, V: tl.constexpr, NORMALISED: tl.constexpr, KEEP: tl.constexpr,
    TILE: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The outputs of a tile: program (tile, block of V, head).

    It goes over the tiles of keys from its own back to the chunk's start, then reads the memory
    there.
    """
    tile, block_v, head = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    first = (head // H) * T
    log_i += first * H + head % H
    log_f += first * H + head % H
    here = tile * TILE
    chunk_start = here // CHUNK * CHUNK
    chunk = head * tl.cdiv(T, CHUNK) + here // CHUNK
    tiles = tl.cdiv(T, TILE)
    q += (first + here) * q_step + (head % H) * K
    k += (first + here) * k_step + (head % H) * K
    v += (first + here) * v_step + (head % H) * V
    inner = tl.arange(0, TILE)
    columns = block_v * BLOCK_V + tl.arange(0, BLOCK_V)

    own_i = load_gate(log_i, here, T, H, TILE, -float("inf"))
    own_f = load_gate(log_f, here, T, H, TILE, 0.0)
    prefix = tl.cumsum(own_f, 0)
    log_d = log_weights_inside(own_i, own_f, TILE)
    if NORMALISED:
        largest, which = tl.max(log_d, 1, return_indices=True, return_indices_tie_break_left=True)
        m_here = tl.load(tile_m + head * (tiles + 1) + tile)
        winner = tl.load(tile_winner + head * tiles + tile)
        m, winner = older_max(prefix + m_here, winner, largest, here - chunk_start + which)
    else:
        m = tl.zeros((TILE,), tl.float32)
        winner = tl.full((TILE,), NONE, tl.int32)

    numerator = tl.zeros((TILE, BLOCK_V), tl.float32)
    denominator = tl.zeros((TILE,), tl.float32)
    for back in range(0, (here - chunk_start) // TILE + 1):
        if back > 0:
            there = here - back * TILE
            log_w = log_weights_to_end(log_i, log_f, there, T, H, TILE)
            log_d = prefix[:, None] + log_w[None, :]
            prefix += tl.sum(load_gate(log_f, there, T, H, TILE, 0.0), 0)
        scores = tl.zeros((TILE, TILE), tl.float32)
        for x in range(0, K, BLOCK_K):
            part = x + tl.arange(0, BLOCK_K)
            queries = load_block(q, inner, part, q_step, 1, T - here, K)
            keys = load_block(k, part, inner, 1, k_step, K, T - here + back * TILE)
            scores = product(queries, keys, scores)
        scores *= tl.exp(log_d - m[:, None]) * scale
        values = load_block(v, inner, columns, v_step, 1, T - here + back * TILE, V)
        numerator = product(scores, values, numerator)
        denominator += tl.sum(scores, 1)
        k -= TILE * k_step
        v -= TILE * v_step

    if NORMALISED:
        m_start = tl.load(tile_m + head * (tiles + 1) + chunk_start // TILE)
        from_start = tl.exp(prefix + m_start - m) * scale
    else:
        from_start = tl.exp(prefix) * scale
    read = tl.zeros((TILE, BLOCK_V), tl.float32)
    for x in range(0, K, BLOCK_K):
        part = x + tl.arange(0, BLOCK_K)
        queries = load_block(q, inner, part, q_step, 1, T - here, K)
        memory = load_block(c_starts + chunk * K * V, part, columns, V, 1, K, V)
        read = product(queries, memory, read)
        if NORMALISED:
            normaliser = tl.load(n_starts + chunk * K + part, mask=part < K, other=0.0)
            denominator += from_start * tl.sum(queries.to(tl.float32) * normaliser[None, :], 1)
    numerator += from_start[:, None] * read
    if NORMALISED:
        numerator /= tl.maximum(tl.abs(denominator), lower_bound(m))[:, None]

    inside = (inner[:, None] < T - here) & (columns[None, :] < V)
    h += (first + here) * H * V + (head % H) * V
    tl.store(h + inner[:, None] * (H * V) + columns[None, :], numerator, mask=inside)
    if KEEP:
        kept = (here + inner < T) & (block_v == 0)
        at = head * T + here + inner
        tl.store(denominators + at, denominator, mask=kept)
        tl.store(stabilisers + at, m, mask=kept)
        tl.store(winners + at, winner, mask=kept)
