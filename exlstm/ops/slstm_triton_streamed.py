"""The sLSTM's Triton kernels for heads of any size: the recurrent weights come from the L2 cache.

A program is some batch rows of one head and runs the whole time loop alone, tile by tile of the
head's cells. From tile to tile and step to step h, c, n and m, or their gradients, travel through
global memory. Nobody else reads or writes these rows, so a barrier of the program's threads is all
that a reader has to wait for. The tensors are those of `slstm_triton.py`.
"""
# pyright: basic, reportMissingImports=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

from exlstm.ops.slstm_triton_cell import (
    LOWEST,
    load_four,
    load_two,
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
    from_cell = tl.arange(0, CELLS)[:, None]
    two, four = tl.arange(0, 2 * CELLS)[None, :], tl.arange(0, 4 * CELLS)[None, :]
    real = row < B
    r += head * V * 4 * V

    last = (row * H + head) * V
    every = (row * T * H + head) * V
    x_at = row * x_b + head * x_h
    # Where the states before a step are: what the call was given, and then what was written.
    h_before, c_before, n_before, m_before = h0 + last, c0 + last, n0 + last, m0 + last
    for t in range(T):
        if reset is not None:
            empty = tl.load(reset + row * T + t, real, 0) != 0
        if mask is not None:
            live = tl.load(mask + row * T + t, real, 0) != 0
        for first in range(0, V, CELLS):
            here = real & (first + cell < V)
            i = tl.zeros([ROWS, CELLS], tl.float32)
            f, z, o = i, i, i
            for k in tl.range(0, V, CELLS, num_stages=STAGES):
                part = tl.load(h_before + k + cell, real & (k + cell < V), 0.0)
                if reset is not None:
                    part = tl.where(empty, 0.0, part).to(part.dtype)
                weights = r + (k + from_cell) * 4 * V + first + cell
                inside = (k + from_cell < V) & (first + cell < V)
                i = tl.dot(part, tl.load(weights, inside, 0.0), i, input_precision="ieee")
                f = tl.dot(part, tl.load(weights + V, inside, 0.0), f, input_precision="ieee")
                z = tl.dot(part, tl.load(weights + 2 * V, inside, 0.0), z, input_precision="ieee")
                o = tl.dot(part, tl.load(weights + 3 * V, inside, 0.0), o, input_precision="ieee")
            # x last: products added one by one to a large x would each be rounded as it is.
            raw = x + x_at + first + cell
            i += tl.load(raw, here, 0.0).to(tl.float32)
            f += tl.load(raw + x_g, here, 0.0).to(tl.float32)
            z += tl.load(raw + 2 * x_g, here, 0.0).to(tl.float32)
            o += tl.load(raw + 3 * x_g, here, 0.0).to(tl.float32)
            old_c = tl.load(c_before + first + cell, here, 0.0)
            old_n = tl.load(n_before + first + cell, here, 0.0)
            old_m = tl.load(m_before + first + cell, here, 0.0)
            if reset is not None:
                old_c = tl.where(empty, 0.0, old_c)
                old_n = tl.where(empty, 0.0, old_n)
                old_m = tl.where(empty, LOWEST, old_m)
            new_h, new_c, new_n, new_m, lead, slope_f, z, o = step(
                i, f, z, o, old_c, old_n, old_m, EXP_FORGET
            )
            if gates is not None:
                at, where = 2 * (every + first) + two, real & (first * 2 + two < 2 * V)
                store_two(cells + at, where, old_c, old_n)
                at, where = 4 * (every + first) + four, real & (first * 4 + four < 4 * V)
                store_four(gates + at, where, lead, slope_f, z, o)
            new_h = new_h.to(r.dtype.element_ty)
            if mask is not None:
                old_h = tl.load(h_before + first + cell, here, 0.0)
                if reset is not None:
                    old_h = tl.where(empty, 0.0, old_h).to(old_h.dtype)
                new_h = tl.where(live, new_h, old_h)
                new_c = tl.where(live, new_c, old_c)
                new_n = tl.where(live, new_n, old_n)
                new_m = tl.where(live, new_m, old_m)
            tl.store(h + every + first + cell, new_h, here)
            tl.store(c + last + first + cell, new_c, here)
            tl.store(n + last + first + cell, new_n, here)
            tl.store(m + last + first + cell, new_m, here)
        tl.debug_barrier()
        h_before, c_before, n_before, m_before = h + every, c + last, n + last, m + last
        x += x_t
        h += H * V
        if gates is not None:
            gates += 4 * H * V
            cells += 2 * H * V


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
    to_cell = tl.arange(0, CELLS)[:, None]
    two, four = tl.arange(0, 2 * CELLS)[None, :], tl.arange(0, 4 * CELLS)[None, :]
    real = row < B
    r += head * V * 4 * V

    last = (row * H + head) * V
    every = (row * T * H + head) * V
    dx_at = row * dx_b + head * dx_h
    end = tl.cast(T - 1, tl.int64)
    dx += end * dx_t
    dh += end * H * V
    gates += end * 4 * H * V
    cells += end * 2 * H * V
    # Where the gradients of the states after a step are.
    h_after, c_after, n_after, m_after = (
        dh_last + last,
        dc_last + last,
        dn_last + last,
        dm_last + last,
    )
    for back in range(T):
        t = T - 1 - back
        if reset is not None:
            empty = tl.load(reset + row * T + t, real, 0) != 0
        if mask is not None:
            live = tl.load(mask + row * T + t, real, 0) != 0
        for first in range(0, V, CELLS):
            here = real & (first + cell < V)
            at, where = 4 * (every + first) + four, real & (first * 4 + four < 4 * V)
            lead, slope_f, z, o = load_four(gates + at, where)
            at, where = 2 * (every + first) + two, real & (first * 2 + two < 2 * V)
            c_before, n_before = load_two(cells + at, where)
            d_h = tl.load(h_after + first + cell, here, 0.0)
            d_h += tl.load(dh + every + first + cell, here, 0.0).to(tl.float32)
            d_c = tl.load(c_after + first + cell, here, 0.0)
            d_n = tl.load(n_after + first + cell, here, 0.0)
            d_m = tl.load(m_after + first + cell, here, 0.0)
            d_i, d_f, d_z, d_o, new_c, new_n, new_m = step_back(
                lead, slope_f, z, o, c_before, n_before, d_h, d_c, d_n, d_m
            )
            if mask is not None:
                d_i = tl.where(live, d_i, 0.0)
                d_f = tl.where(live, d_f, 0.0)
                d_z = tl.where(live, d_z, 0.0)
                d_o = tl.where(live, d_o, 0.0)
                new_c = tl.where(live, new_c, d_c)
                new_n = tl.where(live, new_n, d_n)
                new_m = tl.where(live, new_m, d_m)
                tl.store(dh0 + last + first + cell, d_h, here)
            if reset is not None:
                new_c = tl.where(empty, 0.0, new_c)
                new_n = tl.where(empty, 0.0, new_n)
                new_m = tl.where(empty, 0.0, new_m)
            d_raw = dx + dx_at + first + cell
            tl.store(d_raw, d_i.to(r.dtype.element_ty), here)
            tl.store(d_raw + dx_g, d_f.to(r.dtype.element_ty), here)
            tl.store(d_raw + 2 * dx_g, d_z.to(r.dtype.element_ty), here)
            tl.store(d_raw + 3 * dx_g, d_o.to(r.dtype.element_ty), here)
            tl.store(dc0 + last + first + cell, new_c, here)
            tl.store(dn0 + last + first + cell, new_n, here)
            tl.store(dm0 + last + first + cell, new_m, here)
        tl.debug_barrier()
        for first in range(0, V, CELLS):
            here = real & (first + cell < V)
            new_h = tl.zeros([ROWS, CELLS], tl.float32)
            for k in tl.range(0, V, CELLS, num_stages=STAGES):
                d_raw = dx + dx_at + k + cell
                weights = r + (first + cell) * 4 * V + k + to_cell
                inside, there = (k + to_cell < V) & (first + cell < V), real & (k + cell < V)
                for gate in tl.static_range(4):
                    part = tl.load(d_raw + gate * dx_g, there, 0.0)
                    weight = tl.load(weights + gate * V, inside, 0.0)
                    new_h = tl.dot(part, weight, new_h, input_precision="ieee")
            if mask is not None:
                old_h = tl.load(dh0 + last + first + cell, here, 0.0)
                new_h = tl.where(live, new_h, old_h)
            if reset is not None:
                new_h = tl.where(empty, 0.0, new_h)
            tl.store(dh0 + last + first + cell, new_h, here)
        tl.debug_barrier()
        h_after, c_after, n_after, m_after = dh0 + last, dc0 + last, dn0 + last, dm0 + last
        dx -= dx_t
        dh -= H * V
        gates -= 4 * H * V
        cells -= 2 * H * V
