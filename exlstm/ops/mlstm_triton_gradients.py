"""The backward pass of the mLSTM in Triton, second part: the gradients of q, k and v.

The derivation is in docs/math/mlstm.md. Scores are computed again. What the kernels for q and k
leave for the gates is put together in `mlstm_triton_gates.py`.
"""
# pyright: basic, reportMissingImports=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

from exlstm.ops.mlstm_triton_backward import load_rows
from exlstm.ops.mlstm_triton_weights import (
    NONE,
    load_block,
    load_gate,
    log_weights_inside,
    log_weights_inside_turned,
    log_weights_to_end,
    product,
    sum_between,
)


@triton.jit
def query_gradients_kernel(
    q, k, v, dh, log_i, log_f, c_starts, n_starts, tile_m,
    stabilisers, inverses, d_denominators, winners,
    dq, g_earlier, g_others, g_tiles,
    T, q_step, k_step, v_step, H, scale,
    K: tl.constexpr, V: tl.constexpr, NORMALISED: tl.constexpr,
    TILE: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The dq of a tile: program (tile, block of K, head).

    With G the gradient of log D, for the gates: `g_others`, of each row, the sum without its
    largest weight; `g_earlier`, the sum over all that is before this tile; `g_tiles`, over all
    rows, that before each earlier tile of the chunk. Where the largest weight is in a sum, the
    negative sum of the rest stands for it. Each block of K has its own part of what it reads from
    the memory, all to be added.
    """
    tile, block_k, head = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    is_first = tl.where(block_k == 0, 1.0, 0.0)
    heads = tl.num_programs(2)
    part_row = (block_k * heads + head) * T
    first = (head // H) * T
    log_i += first * H + head % H
    log_f += first * H + head % H
    here = tile * TILE
    chunk_start = here // CHUNK * CHUNK
    chunk = head * tl.cdiv(T, CHUNK) + here // CHUNK
    tiles = tl.cdiv(T, TILE)
    q += (first + here) * q_step + (head % H) * K
    dh += (first + here) * H * V + (head % H) * V
    k += (first + chunk_start) * k_step + (head % H) * K
    v += (first + chunk_start) * v_step + (head % H) * V
    inner = tl.arange(0, TILE)
    t = here + inner
    columns = block_k * BLOCK_K + tl.arange(0, BLOCK_K)

    own_i = load_gate(log_i, here, T, H, TILE, -float("inf"))
    own_f = load_gate(log_f, here, T, H, TILE, 0.0)
    prefix = tl.cumsum(own_f, 0)
    inverse, d_denominator, m = load_rows(
        inverses, d_denominators, stabilisers, head * T, here, T, NORMALISED, TILE
    )
    log_start = prefix + sum_between(log_f, chunk_start, here, T, H, CHUNK) - m
    if NORMALISED:
        winner = tl.load(winners + head * T + t, mask=t < T, other=NONE)
        log_start += tl.load(tile_m + head * (tiles + 1) + chunk_start // TILE)
    else:
        winner = tl.full((TILE,), NONE, tl.int32)
    from_start = tl.exp(log_start)

    gradient = tl.zeros((TILE, BLOCK_K), tl.float32)
    for y in range(0, V, BLOCK_V):
        part = y + tl.arange(0, BLOCK_V)
        gradients = load_block(dh, inner, part, H * V, 1, T - here, V)
        memory = load_block(c_starts + chunk * K * V, part, columns, 1, V, V, K)
        gradient = product(gradients, memory, gradient)
    gradient *= (from_start * inverse)[:, None]
    if NORMALISED:
        normaliser = tl.load(n_starts + chunk * K + columns, mask=columns < K, other=0.0)
        gradient += (from_start * d_denominator)[:, None] * normaliser[None, :]
    queries = load_block(q, inner, columns, q_step, 1, T - here, K)
    others = tl.sum(queries.to(tl.float32) * gradient, 1) * scale
    others = tl.where(winner == -1, 0.0, others)
    gradient *= scale
    since = others  # what is after the largest weight, or all if that is still to come

    each = tl.arange(0, CHUNK // TILE)
    before = tl.zeros((CHUNK // TILE,), tl.float32)
    for there in range(chunk_start, here + TILE, TILE):
        own = there - chunk_start
        before += tl.where(each == own // TILE, tl.sum(since, 0), 0.0)
        if there < here:
            log_w = log_weights_to_end(log_i, log_f, there, T, H, TILE)
            between = sum_between(log_f, there + TILE, here, T, H, CHUNK)
            log_d = (prefix + between)[:, None] + log_w[None, :]
        else:
            log_d = log_weights_inside(own_i, own_f, TILE)
        keys = load_block(k, inner, columns, k_step, 1, T - there, K)
        scores = tl.zeros((TILE, TILE), tl.float32)
        if BLOCK_K >= K:
            scores = product(queries, tl.trans(keys), scores)
        else:
            for x in range(0, K, BLOCK_K):
                part = x + tl.arange(0, BLOCK_K)
                some = load_block(q, inner, part, q_step, 1, T - here, K)
                others_k = load_block(k, part, inner, 1, k_step, K, T - there)
                scores = product(some, others_k, scores)
        d_scores = tl.zeros((TILE, TILE), tl.float32)
        for y in range(0, V, BLOCK_V):
            part = y + tl.arange(0, BLOCK_V)
            gradients = load_block(dh, inner, part, H * V, 1, T - here, V)
            values = load_block(v, part, inner, 1, v_step, V, T - there)
            d_scores = product(gradients, values, d_scores)
        d_scores = (d_scores * inverse[:, None] + d_denominator[:, None]) * (
            tl.exp(log_d - m[:, None]) * scale
        )
        gradient = product(d_scores, keys, gradient)

        g = d_scores * scores
        is_largest = winner[:, None] == (own + inner)[None, :]
        row = tl.sum(tl.where(is_largest, 0.0, g), 1) * is_first
        others += row
        if there < here:
            here_largest = (winner >= own) & (winner < own + TILE)
            since = tl.where(here_largest, 0.0, since + row)
        else:
            early = (winner > NONE) & (winner < own)
            tl.store(
                g_earlier + part_row + t,
                tl.where(early, -row, since),
                mask=t < T,
            )
            passed = (winner[:, None] > NONE) & (winner[:, None] < each[None, :] * TILE)
            before -= tl.sum(tl.where(passed, (since + row)[:, None], 0.0), 0)
        k += TILE * k_step
        v += TILE * v_step

    inside = (t[:, None] < T) & (columns[None, :] < K)
    dq += (first + here) * H * K + (head % H) * K
    tl.store(dq + inner[:, None] * (H * K) + columns[None, :], gradient, mask=inside)
    tl.store(g_others + part_row + t, others, mask=t < T)
    at = (block_k * heads + head) * tiles + tile
    tl.store(g_tiles + at * (CHUNK // TILE) + each, before)


@triton.jit
def load_end(
    log_f,
    tile_m,
    log_w,
    here,
    head,
    T,
    H,
    NORMALISED: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """The weights of a tile's steps in the memory at the chunk's end."""
    chunk_end = tl.minimum((here // CHUNK + 1) * CHUNK, T)
    weights = log_w + sum_between(log_f, here + TILE, chunk_end, T, H, CHUNK)
    if NORMALISED:
        tiles = tl.cdiv(T, TILE)
        weights -= tl.load(tile_m + head * (tiles + 1) + tl.cdiv(chunk_end, TILE))
    return tl.exp(weights)


@triton.jit
def key_gradients_kernel(
    q, k, v, dh, log_i, log_f, dc_ends, dn_ends, tile_m,
    stabilisers, inverses, d_denominators, winners, g_others,
    dk, g_memory, g_later, g_inside, g_crossing,
    T, q_step, k_step, v_step, H, scale,
    K: tl.constexpr, V: tl.constexpr, NORMALISED: tl.constexpr,
    TILE: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The dk of a tile: program (tile, block of K, head). Scores are turned: [j, t].

    For the gates, of each column: `g_memory`, what goes through the memory at the chunk's end (each
    block of K has its part); `g_later` and `g_inside`, the sums of G over the rows of later tiles
    and of this one; `g_crossing`, in the tile, over all columns up to it and all rows after it.
    """
    tile, block_k, head = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    first = (head // H) * T
    log_i += first * H + head % H
    log_f += first * H + head % H
    here = tile * TILE
    chunk_start = here // CHUNK * CHUNK
    chunk_end = tl.minimum(chunk_start + CHUNK, T)
    chunk = head * tl.cdiv(T, CHUNK) + here // CHUNK
    q += (first + here) * q_step + (head % H) * K
    k += (first + here) * k_step + (head % H) * K
    v += (first + here) * v_step + (head % H) * V
    dh += (first + here) * H * V + (head % H) * V
    inner = tl.arange(0, TILE)
    own = here - chunk_start + inner
    columns = block_k * BLOCK_K + tl.arange(0, BLOCK_K)

    own_i = load_gate(log_i, here, T, H, TILE, -float("inf"))
    own_f = load_gate(log_f, here, T, H, TILE, 0.0)
    log_w = log_weights_to_end(log_i, log_f, here, T, H, TILE)
    weights = load_end(log_f, tile_m, log_w, here, head, T, H, NORMALISED, TILE, CHUNK)
    gradient = tl.zeros((TILE, BLOCK_K), tl.float32)
    for y in range(0, V, BLOCK_V):
        part = y + tl.arange(0, BLOCK_V)
        values = load_block(v, inner, part, v_step, 1, T - here, V)
        d_memory = load_block(dc_ends + chunk * K * V, part, columns, 1, V, V, K)
        gradient = product(values, d_memory, gradient)
    if NORMALISED:
        gradient += tl.load(dn_ends + chunk * K + columns, mask=columns < K, other=0.0)[None, :]
    gradient *= weights[:, None]
    keys = load_block(k, inner, columns, k_step, 1, T - here, K)
    through_memory = tl.sum(keys.to(tl.float32) * gradient, 1)

    later = tl.zeros((TILE,), tl.float32)
    inside = tl.zeros((TILE,), tl.float32)
    crossing = tl.zeros((TILE,), tl.float32)
    for there in range(here, chunk_end, TILE):
        t = there + inner
        inverse, d_denominator, m = load_rows(
            inverses, d_denominators, stabilisers, head * T, there, T, NORMALISED, TILE
        )
        if there == here:
            log_d = log_weights_inside_turned(own_i, own_f, TILE)
        else:
            their_f = load_gate(log_f, there, T, H, TILE, 0.0)
            log_d = log_w[:, None] + tl.cumsum(their_f, 0)[None, :]
            log_w += tl.sum(their_f, 0)
        queries = load_block(q, inner, columns, q_step, 1, T - there, K)
        scores = tl.zeros((TILE, TILE), tl.float32)
        if BLOCK_K >= K:
            scores = product(keys, tl.trans(queries), scores)
        else:
            for x in range(0, K, BLOCK_K):
                part = x + tl.arange(0, BLOCK_K)
                some = load_block(k, inner, part, k_step, 1, T - here, K)
                others_q = load_block(q, part, inner, 1, q_step, K, T - there)
                scores = product(some, others_q, scores)
        d_scores = tl.zeros((TILE, TILE), tl.float32)
        for y in range(0, V, BLOCK_V):
            part = y + tl.arange(0, BLOCK_V)
            values = load_block(v, inner, part, v_step, 1, T - here, V)
            gradients = load_block(dh, part, inner, 1, H * V, V, T - there)
            d_scores = product(values, gradients, d_scores)
        d_scores = (d_scores * inverse[None, :] + d_denominator[None, :]) * (
            tl.exp(log_d - m[None, :]) * scale
        )
        gradient = product(d_scores, queries, gradient)

        g = d_scores * scores
        if NORMALISED:
            winner = tl.load(winners + head * T + t, mask=t < T, other=NONE)
            others = tl.load(g_others + head * T + t, mask=t < T, other=0.0)
            g = tl.where(own[:, None] == winner[None, :], -others[None, :], g)
        if there == here:
            inside += tl.sum(g, 1)
            past = inner[None, :] > inner[:, None]
            crossing += tl.sum(tl.where(past, tl.cumsum(g, 0), 0.0), 1)
        else:
            later += tl.sum(g, 1)
        q += TILE * q_step
        dh += TILE * H * V

    in_k = (here + inner[:, None] < T) & (columns[None, :] < K)
    dk += (first + here) * H * K + (head % H) * K
    tl.store(dk + inner[:, None] * (H * K) + columns[None, :], gradient, mask=in_k)
    t = here + inner
    row = head * T + t
    tl.store(g_memory + block_k * (tl.num_programs(2) * T) + row, through_memory, mask=t < T)
    is_first = (t < T) & (block_k == 0)
    tl.store(g_later + row, later, mask=is_first)
    tl.store(g_inside + row, inside, mask=is_first)
    tl.store(g_crossing + row, crossing, mask=is_first)


@triton.jit
def value_gradients_kernel(
    q, k, dh, log_i, log_f, dc_ends, tile_m, stabilisers, inverses, d_denominators, dv,
    T, q_step, k_step, H, scale,
    K: tl.constexpr, V: tl.constexpr, NORMALISED: tl.constexpr,
    TILE: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The dv of a tile: program (tile, block of V, head). Scores are turned: [j, t]."""
    tile, block_v, head = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    first = (head // H) * T
    log_i += first * H + head % H
    log_f += first * H + head % H
    here = tile * TILE
    chunk_end = tl.minimum((here // CHUNK + 1) * CHUNK, T)
    chunk = head * tl.cdiv(T, CHUNK) + here // CHUNK
    q += (first + here) * q_step + (head % H) * K
    k += (first + here) * k_step + (head % H) * K
    dh += (first + here) * H * V + (head % H) * V
    inner = tl.arange(0, TILE)
    columns = block_v * BLOCK_V + tl.arange(0, BLOCK_V)

    own_i = load_gate(log_i, here, T, H, TILE, -float("inf"))
    own_f = load_gate(log_f, here, T, H, TILE, 0.0)
    log_w = log_weights_to_end(log_i, log_f, here, T, H, TILE)
    weights = load_end(log_f, tile_m, log_w, here, head, T, H, NORMALISED, TILE, CHUNK)
    gradient = tl.zeros((TILE, BLOCK_V), tl.float32)
    for x in range(0, K, BLOCK_K):
        part = x + tl.arange(0, BLOCK_K)
        keys = load_block(k, inner, part, k_step, 1, T - here, K)
        d_memory = load_block(dc_ends + chunk * K * V, part, columns, V, 1, K, V)
        gradient = product(keys, d_memory, gradient)
    gradient *= weights[:, None]

    for there in range(here, chunk_end, TILE):
        inverse, _d_denominator, m = load_rows(
            inverses, d_denominators, stabilisers, head * T, there, T, NORMALISED, TILE
        )
        if there == here:
            log_d = log_weights_inside_turned(own_i, own_f, TILE)
        else:
            their_f = load_gate(log_f, there, T, H, TILE, 0.0)
            log_d = log_w[:, None] + tl.cumsum(their_f, 0)[None, :]
            log_w += tl.sum(their_f, 0)
        scores = tl.zeros((TILE, TILE), tl.float32)
        for x in range(0, K, BLOCK_K):
            part = x + tl.arange(0, BLOCK_K)
            keys = load_block(k, inner, part, k_step, 1, T - here, K)
            queries = load_block(q, part, inner, 1, q_step, K, T - there)
            scores = product(keys, queries, scores)
        scores *= tl.exp(log_d - m[None, :]) * (inverse[None, :] * scale)
        gradients = load_block(dh, inner, columns, H * V, 1, T - there, V)
        gradient = product(scores, gradients, gradient)
        q += TILE * q_step
        dh += TILE * H * V

    in_v = (here + inner[:, None] < T) & (columns[None, :] < V)
    dv += (first + here) * H * V + (head % H) * V
    tl.store(dv + inner[:, None] * (H * V) + columns[None, :], gradient, mask=in_v)
