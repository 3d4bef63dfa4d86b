"""How the Triton kernels of the mLSTM are called, and the ways to cut the work they choose from.

Imports Triton: it is imported at the first call of one of the ops in `mlstm_triton.py`.
"""
# pyright: reportMissingImports=false, reportIndexIssue=false

from __future__ import annotations

import torch
import triton
from torch import Tensor

from exlstm.ops import native
from exlstm.ops.mlstm_triton import tiling
from exlstm.ops.mlstm_triton_backward import division_kernel, memory_gradients_kernel
from exlstm.ops.mlstm_triton_forward import memories_kernel, outputs_kernel
from exlstm.ops.mlstm_triton_gates import gate_gradients_kernel, m_gradient_kernel
from exlstm.ops.mlstm_triton_gradients import (
    key_gradients_kernel,
    query_gradients_kernel,
    value_gradients_kernel,
)
from exlstm.ops.mlstm_triton_step import step_kernel
from exlstm.ops.triton_support import interprets

LARGEST_BLOCK = 128
"""Of the columns of dq and dk that one program has: twice as many do not fit into registers."""

# BLOCK_K (0: see `LARGEST_BLOCK`), BLOCK_V, num_warps, num_stages.
CONFIGS: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "memories": ((64, 64, 4, 3), (64, 128, 8, 2), (128, 64, 8, 2), (128, 128, 8, 2)),
    "outputs": ((64, 64, 8, 3), (64, 128, 8, 2), (32, 128, 8, 3), (64, 256, 8, 2)),
    "memory_gradients": ((64, 64, 4, 3), (64, 128, 8, 2), (128, 64, 8, 2), (128, 128, 8, 2)),
    "query_gradients": ((0, 32, 8, 2), (0, 64, 8, 2), (0, 64, 8, 1)),
    "key_gradients": ((0, 32, 8, 2), (0, 64, 8, 2), (0, 64, 8, 1)),
    "value_gradients": ((64, 64, 8, 3), (64, 128, 8, 2), (32, 128, 8, 3), (64, 256, 8, 2)),
    "step": ((64, 32, 4, 3), (128, 32, 4, 2), (64, 64, 4, 3), (32, 128, 4, 3), (256, 16, 4, 2)),
}


def block(size: int, largest: int) -> int:
    """The block of an axis: at least 16, as products on tensor cores want.

    Interpreted it is that: small tests then have several blocks.
    """
    return 16 if interprets() else max(16, min(largest, triton.next_power_of_2(size)))


def _fitting(configs: list[triton.Config], _: object, **sizes: int) -> list[triton.Config]:
    """The configurations, their blocks no larger than the memory, each once."""
    fitting = {}
    for config in configs:
        blocks = {name: block(sizes[name[-1]], largest) for name, largest in config.kwargs.items()}
        way = (*blocks.values(), config.num_warps, config.num_stages)
        fitting[way] = triton.Config(
            blocks, num_warps=config.num_warps, num_stages=config.num_stages
        )
    return list(fitting.values())


def _tuned(name: str, kernel):
    """A kernel that measures its configurations once for each sizes, dtypes and device."""
    ways = ((CONFIGS[name][0][0] and 16, 16, 4, 1),) if interprets() else CONFIGS[name]
    configs = []
    for block_k, block_v, warps, stages in ways:
        blocks = {"BLOCK_K": block_k, "BLOCK_V": block_v} if block_k else {"BLOCK_V": block_v}
        configs.append(triton.Config(blocks, num_warps=warps, num_stages=stages))
    keys = [key for key in ("K", "V", "NORMALISED", "TILE", "CHUNK") if key in kernel.arg_names]
    prune = {"early_config_prune": _fitting}
    return triton.autotune(configs, key=keys, prune_configs_by=prune, cache_results=True)(kernel)


_memories = _tuned("memories", memories_kernel)
_outputs = _tuned("outputs", outputs_kernel)
_memory_gradients = _tuned("memory_gradients", memory_gradients_kernel)
_query_gradients = _tuned("query_gradients", query_gradients_kernel)
_key_gradients = _tuned("key_gradients", key_gradients_kernel)
_value_gradients = _tuned("value_gradients", value_gradients_kernel)
_step = _tuned("step", step_kernel)


def forward(
    q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor, c: Tensor, n: Tensor, m: Tensor,
    normalised: bool, keep: bool, outputs: tuple[Tensor, ...],
) -> None:  # fmt: skip
    """Fill the outputs of the forward op."""
    (batch, time, heads, key), value = q.shape, v.shape[-1]
    tile, chunk = tiling(key, value, q.dtype)
    (q, q_step), (k, k_step), (v, v_step) = (native.steps(x) for x in (q, k, v))
    log_i, log_f, c, n, m = (x.contiguous() for x in (log_i, log_f, c, n, m))
    programs, chunks, tiles = batch * heads, -(-time // chunk), -(-time // tile)
    h, c_last, n_last, m_last, *kept = outputs
    if not keep:
        kept = [
            m.new_empty(programs * chunks * key * value),
            m.new_empty(programs * chunks * key),
            m.new_empty(programs * (tiles + 1)),
            m.new_empty(programs * chunks, dtype=torch.int32),
            *kept[4:],
        ]
    c_starts, n_starts, tile_m, chunk_winner, denominators, stabilisers, winners = kept
    tile_winner = m.new_empty(programs * tiles, dtype=torch.int32)
    sizes = {"K": key, "V": value, "NORMALISED": normalised, "TILE": tile, "CHUNK": chunk}

    _memories[
        lambda meta: (
            programs, triton.cdiv(key, meta["BLOCK_K"]), triton.cdiv(value, meta["BLOCK_V"])
        )
    ](
        k, v, log_i, log_f, c, n, m,
        c_starts, n_starts, tile_m, tile_winner, chunk_winner, c_last, n_last, m_last,
        time, k_step, v_step, heads, **sizes,
    )  # fmt: skip
    _outputs[lambda meta: (tiles, triton.cdiv(value, meta["BLOCK_V"]), programs)](
        q, k, v, log_i, log_f, c_starts, n_starts, tile_m, tile_winner,
        h, denominators, stabilisers, winners,
        time, q_step, k_step, v_step, heads, key**-0.5, KEEP=keep and normalised, **sizes,
    )  # fmt: skip


def backward(
    q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor, c: Tensor, n: Tensor, m: Tensor,
    h: Tensor, c_starts: Tensor, n_starts: Tensor, tile_m: Tensor, chunk_winner: Tensor,
    denominators: Tensor, stabilisers: Tensor, winners: Tensor,
    dh: Tensor, dc_last: Tensor, dn_last: Tensor, dm_last: Tensor,
    normalised: bool, gradients: tuple[Tensor, ...],
) -> None:  # fmt: skip
    """Fill the gradients of the backward op."""
    (batch, time, heads, key), value = q.shape, v.shape[-1]
    tile, chunk = tiling(key, value, q.dtype)
    (q, q_step), (k, k_step), (v, v_step) = (native.steps(x) for x in (q, k, v))
    log_i, log_f = log_i.contiguous(), log_f.contiguous()
    dh, dc_last, dn_last, dm_last = (x.contiguous() for x in (dh, dc_last, dn_last, dm_last))
    dq, dk, dv, dlog_i, dlog_f, dc, dn, dm = gradients
    programs, chunks, tiles = batch * heads, -(-time // chunk), -(-time // tile)
    sizes = {"K": key, "V": value, "NORMALISED": normalised, "TILE": tile, "CHUNK": chunk}
    scale = key**-0.5

    inverses, d_denominators = (m.new_empty(programs * time) for _ in range(2))
    balanced = torch.empty_like(winners)
    if normalised:
        division_kernel[(tiles, programs)](
            h, dh, denominators, stabilisers, winners, inverses, d_denominators, balanced,
            time, heads, V=value, TILE=tile, BLOCK_V=block(value, 128),
        )  # fmt: skip
    rows = (stabilisers, inverses, d_denominators)

    dc_ends, dn_ends = torch.empty_like(c_starts), torch.empty_like(n_starts)
    _memory_gradients[
        lambda meta: (
            programs, triton.cdiv(key, meta["BLOCK_K"]), triton.cdiv(value, meta["BLOCK_V"])
        )
    ](
        q, dh, log_f, tile_m, *rows, dc_last, dn_last, dc_ends, dn_ends, dc, dn,
        time, q_step, heads, scale, **sizes,
    )  # fmt: skip

    block_k = block(key, LARGEST_BLOCK)
    parts = triton.cdiv(key, block_k)
    g_earlier, g_others, g_memory = (m.new_empty(parts, programs * time) for _ in range(3))
    g_later, g_inside, g_crossing = (m.new_empty(programs * time) for _ in range(3))
    g_tiles = m.new_empty(parts, programs * tiles * (chunk // tile))
    _query_gradients[(tiles, parts, programs)](
        q, k, v, dh, log_i, log_f, c_starts, n_starts, tile_m, *rows, balanced,
        dq, g_earlier, g_others, g_tiles,
        time, q_step, k_step, v_step, heads, scale, BLOCK_K=block_k, **sizes,
    )  # fmt: skip
    g_earlier, g_others, g_tiles = (x.sum(0) for x in (g_earlier, g_others, g_tiles))
    _key_gradients[(tiles, parts, programs)](
        q, k, v, dh, log_i, log_f, dc_ends, dn_ends, tile_m, *rows, balanced, g_others,
        dk, g_memory, g_later, g_inside, g_crossing,
        time, q_step, k_step, v_step, heads, scale, BLOCK_K=block_k, **sizes,
    )  # fmt: skip
    g_memory = g_memory.sum(0)
    _value_gradients[lambda meta: (tiles, triton.cdiv(value, meta["BLOCK_V"]), programs)](
        q, k, dh, log_i, log_f, dc_ends, tile_m, *rows, dv,
        time, q_step, k_step, heads, scale, **sizes,
    )  # fmt: skip

    gate_gradients_kernel[(chunks, programs)](
        log_f, c_starts, n_starts, dc_ends, dn_ends, tile_m, chunk_winner,
        g_earlier, g_tiles, g_memory, g_later, g_inside, g_crossing, dlog_i, dlog_f,
        time, heads, BLOCK_K=block(key, 64), BLOCK_V=block(value, 64), **sizes,
    )  # fmt: skip
    if normalised:
        m_gradient_kernel[(programs,)](
            chunk_winner, dm_last, dlog_i, dlog_f, dm, time, heads, CHUNK=chunk
        )
    else:
        dm.zero_()


def step(
    q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor, c: Tensor, n: Tensor, m: Tensor,
    normalised: bool, outputs: tuple[Tensor, ...],
) -> None:  # fmt: skip
    """Fill the outputs of the op for one step."""
    (batch, _, heads, key), value = q.shape, v.shape[-1]
    (q, q_row), (k, k_row), (v, v_row) = (native.steps(x) for x in (q, k, v))
    log_i, log_f, c, n, m = (x.contiguous() for x in (log_i, log_f, c, n, m))
    _step[lambda meta: (batch * heads, triton.cdiv(value, meta["BLOCK_V"]))](
        q, k, v, log_i, log_f, c, n, m, *outputs, heads, key**-0.5, q_row, k_row, v_row,
        K=key, V=value, NORMALISED=normalised,
    )  # fmt: skip
