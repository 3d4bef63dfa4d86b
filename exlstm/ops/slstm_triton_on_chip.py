"""The sLSTM's Triton kernels for heads whose recurrent weights fit on the chip.

A program is some batch rows of one head. It reads the head's recurrent weights once and runs the
whole time loop alone, its states in registers. The tensors are those of `slstm_triton.py`.
"""
# pyright: basic, reportMissingImports=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

from exlstm.ops.slstm_triton_cell import (
    LOWEST,
    load_four,
    load_two,
    side_by_side,
    step,
    step_back,
    store_four,
    store_two,
)


@triton.jit
def forward(
    x, r, h0, c0, n0, m0, mask, reset, h, c, n, m, gates, cells,
    B, T, H, V, x_b, x_t, x_h, x_g,
    EXP_FORGET: tl.constexpr, ROWS: tl.constexpr, CELLS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """All steps of some rows of one head."""
    head = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    cell = tl.arange(0, CELLS)[None, :]
    real = (row < B) & (cell < V)

    before = tl.arange(0, CELLS)[:, None]
    r += head * V * 4 * V + before * 4 * V + cell
    inside = (before < V) & (cell < V)
    r_i = tl.load(r, inside, 0.0)
    r_f = tl.load(r + V, inside, 0.0)
    r_z = tl.load(r + 2 * V, inside, 0.0)
    r_o = tl.load(r + 3 * V, inside, 0.0)

    at = (row * H + head) * V + cell
    now_h = tl.load(h0 + at, real, 0.0)
    now_c = tl.load(c0 + at, real, 0.0)
    now_n = tl.load(n0 + at, real, 0.0)
    now_m = tl.load(m0 + at, real, 0.0)
    first = (row * T * H + head) * V
    every, two, four = (
        first + cell,
        tl.arange(0, 2 * CELLS)[None, :],
        tl.arange(0, 4 * CELLS)[None, :],
    )
    real_two, real_four = (row < B) & (two < 2 * V), (row < B) & (four < 4 * V)
    two, four = 2 * first + two, 4 * first + four
    x_at = row * x_b + head * x_h + cell
    for t in tl.range(T, num_stages=STAGES):
        if reset is not None:
            empty = tl.load(reset + row * T + t, row < B, 0) != 0
            now_h = tl.where(empty, 0.0, now_h).to(now_h.dtype)
            now_c = tl.where(empty, 0.0, now_c)
            now_n = tl.where(empty, 0.0, now_n)
            now_m = tl.where(empty, LOWEST, now_m)
        # Not `x + dot`, which Triton makes a dot that starts from x: then each product added to a
        # large x is rounded as that is.
        minus_i = -tl.load(x + x_at, real, 0.0).to(tl.float32)
        minus_f = -tl.load(x + x_at + x_g, real, 0.0).to(tl.float32)
        minus_z = -tl.load(x + x_at + 2 * x_g, real, 0.0).to(tl.float32)
        minus_o = -tl.load(x + x_at + 3 * x_g, real, 0.0).to(tl.float32)
        i = tl.dot(now_h, r_i, input_precision="ieee") - minus_i
        f = tl.dot(now_h, r_f, input_precision="ieee") - minus_f
        z = tl.dot(now_h, r_z, input_precision="ieee") - minus_z
        o = tl.dot(now_h, r_o, input_precision="ieee") - minus_o
        if gates is not None:
            store_two(cells + two, real_two, now_c, now_n)
        new_h, new_c, new_n, new_m, lead, slope_f, z, o = step(
            i, f, z, o, now_c, now_n, now_m, EXP_FORGET
        )
        if gates is not None:
            store_four(gates + four, real_four, lead, slope_f, z, o)
        new_h = new_h.to(now_h.dtype)
        if mask is not None:
            live = tl.load(mask + row * T + t, row < B, 0) != 0
            new_h = tl.where(live, new_h, now_h)
            new_c = tl.where(live, new_c, now_c)
            new_n = tl.where(live, new_n, now_n)
            new_m = tl.where(live, new_m, now_m)
        now_h, now_c, now_n, now_m = new_h, new_c, new_n, new_m
        tl.store(h + every, now_h, real)
        x += x_t
        h += H * V
        if gates is not None:
            gates += H * V * 4
            cells += H * V * 2
    tl.store(c + at, now_c, real)
    tl.store(n + at, now_n, real)
    tl.store(m + at, now_m, real)


@triton.jit
def backward(
    r, gates, cells, mask, reset, dh, dh_last, dc_last, dn_last, dm_last,
    dx, dh0, dc0, dn0, dm0,
    B, T, H, V, dx_b, dx_t, dx_h, dx_g,
    ROWS: tl.constexpr, CELLS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """All steps in reverse: the gradients of the pre-activations and of the first state."""
    head = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    cell = tl.arange(0, CELLS)[None, :]
    real = (row < B) & (cell < V)

    # The gates side by side make one product of the four.
    gate = tl.arange(0, 4 * CELLS) // CELLS
    after = tl.arange(0, 4 * CELLS) % CELLS
    r += head * V * 4 * V + cell * 4 * V + (gate * V + after)[:, None]
    weights = tl.load(r, (after < V)[:, None] & (cell < V), 0.0)

    at = (row * H + head) * V + cell
    d_h = tl.load(dh_last + at, real, 0.0)
    d_c = tl.load(dc_last + at, real, 0.0)
    d_n = tl.load(dn_last + at, real, 0.0)
    d_m = tl.load(dm_last + at, real, 0.0)
    first = (row * T * H + head) * V
    every, two, four = (
        first + cell,
        tl.arange(0, 2 * CELLS)[None, :],
        tl.arange(0, 4 * CELLS)[None, :],
    )
    real_two, real_four = (row < B) & (two < 2 * V), (row < B) & (four < 4 * V)
    two, four = 2 * first + two, 4 * first + four
    dx_at = row * dx_b + head * dx_h + (gate * dx_g + after)[None, :]
    end = tl.cast(T - 1, tl.int64)
    dx += end * dx_t
    dh += end * H * V
    gates += end * H * V * 4
    cells += end * H * V * 2
    for back in tl.range(T, num_stages=STAGES):
        t = T - 1 - back
        lead, slope_f, z, o = load_four(gates + four, real_four)
        c_before, n_before = load_two(cells + two, real_two)
        d_h += tl.load(dh + every, real, 0.0).to(tl.float32)
        d_i, d_f, d_z, d_o, new_c, new_n, new_m = step_back(
            lead, slope_f, z, o, c_before, n_before, d_h, d_c, d_n, d_m
        )
        d_raw = side_by_side(d_i, d_f, d_z, d_o).to(weights.dtype)
        if mask is not None:
            live = tl.load(mask + row * T + t, row < B, 0) != 0
            d_raw = tl.where(live, d_raw, 0.0).to(weights.dtype)
            new_c = tl.where(live, new_c, d_c)
            new_n = tl.where(live, new_n, d_n)
            new_m = tl.where(live, new_m, d_m)
        tl.store(dx + dx_at, d_raw, (row < B) & (after < V)[None, :])
        new_h = tl.dot(d_raw, weights, input_precision="ieee")
        if mask is not None:
            new_h = tl.where(live, new_h, d_h)
        if reset is not None:
            empty = tl.load(reset + row * T + t, row < B, 0) != 0
            new_h = tl.where(empty, 0.0, new_h)
            new_c = tl.where(empty, 0.0, new_c)
            new_n = tl.where(empty, 0.0, new_n)
            new_m = tl.where(empty, 0.0, new_m)
        d_h, d_c, d_n, d_m = new_h, new_c, new_n, new_m
        dx -= dx_t
        dh -= H * V
        gates -= H * V * 4
        cells -= H * V * 2
    tl.store(dh0 + at, d_h, real)
    tl.store(dc0 + at, d_c, real)
    tl.store(dn0 + at, d_n, real)
    tl.store(dm0 + at, d_m, real)
