"""Speed of the ops, against peers and against what the machine can do.

Also whether the mLSTM's cost is linear in T, and how small calls fare, as in decoding.

Everything runs in one process. A peer that is not installed is a row that says so; see
`requirements-peers.txt`.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from record import record, require_green
from timing import ceilings, medians, with_gradients, without_gradients

from exlstm.ops import backends, mlstm, slstm

SLSTM_SHAPES = ((16, 512, 4, 128), (8, 256, 4, 32), (1, 512, 4, 32), (1, 1, 4, 128))  # B T H V
MLSTM_SHAPES = (  # B H T K V
    (4, 4, 512, 64, 64),
    (2, 4, 2048, 128, 128),
    (1, 4, 8192, 128, 128),
    (1, 8, 2048, 256, 512),
    (1, 4, 1, 64, 64),
)
CHUNKS = (32, 64, 128, 256)
LENGTHS = (1024, 2048, 4096, 8192, 16384)  # of an mlstm with B H K V as follows
LENGTHS_SHAPE = (1, 4, 128, 128)
SMALL = tuple(itertools.product((1, 4), (1, 2, 5), (4, 16, 64)))  # B, T, K and V; 4 heads


def slstm_rows(peak: float) -> list[dict[str, Any]]:
    """Every backend; the share counts the recurrent products only, once forward, twice backward."""
    rows = []
    for batch, time, heads, cells in SLSTM_SHAPES:
        leaves = _slstm_leaves(batch, time, heads, cells)
        runs: dict[str, Callable[[], torch.Tensor]] = {
            name: lambda name=name, leaves=leaves: slstm(*leaves, backend=name)[0]
            for name in backends("slstm")
        }
        flops = 2 * batch * time * heads * cells * 4 * cells
        rows += rows_of("slstm", (batch, time, heads, cells), runs, leaves, flops, peak)
    return rows


def mlstm_rows(peak: float) -> list[dict[str, Any]]:
    """Every backend, SDPA and mlstm_kernels; the share counts the causal half at chunks of 64."""
    rows = []
    for batch, heads, time, key, value in MLSTM_SHAPES:
        leaves = _mlstm_leaves(batch, heads, time, key, value)
        runs: dict[str, Callable[[], torch.Tensor]] = {
            name: lambda name=name, leaves=leaves: mlstm(*leaves, backend=name)[0]
            for name in backends("mlstm")
            if name in ("native", "chunkwise") or (time <= 512 and name != "triton")
        }
        per_step = min(64, time) * (key + value) + 4 * key * value
        flops = batch * heads * time * per_step
        size = (batch, heads, time, key, value)
        rows += rows_of("mlstm", size, runs, leaves, flops, peak)
        if time > 1:
            rows += _peer_rows(size, leaves)
    return rows


def _peer_rows(size: tuple[int, ...], leaves: list[torch.Tensor]) -> list[dict[str, Any]]:
    """Attention, and mlstm_kernels in its own layout at its best chunk size."""
    heads_first = [leaf.detach().transpose(1, 2).contiguous().requires_grad_() for leaf in leaves]
    q, k, v = heads_first[:3]
    attention = {
        "scaled_dot_product_attention": lambda: F.scaled_dot_product_attention(
            q, k, v, is_causal=True
        )
    }
    rows = rows_of("mlstm", size, attention, [q, k, v]) if size[2] <= 8192 else []
    if importlib.util.find_spec("mlstm_kernels") is None:
        return [*rows, {"op": "mlstm", "size": size, "what": "mlstm_kernels", "missing": True}]
    from mlstm_kernels.torch import get_mlstm_kernel

    runs = {}
    for form in ("native_autograd", "native_custbw"):
        kernel = get_mlstm_kernel(f"chunkwise--{form}")
        for chunk in CHUNKS:
            if size[2] % chunk == 0:
                runs[f"mlstm_kernels {form} {chunk}"] = lambda kernel=kernel, chunk=chunk: kernel(
                    *heads_first, chunk_size=chunk
                )
    return rows + rows_of("mlstm", size, runs, heads_first)


def length_rows() -> list[dict[str, Any]]:
    """What a step of time costs the native mlstm, forward and backward, against its length."""
    batch, heads, key, value = LENGTHS_SHAPE
    runs: dict[str, Callable[[], object]] = {}
    for time in LENGTHS:
        leaves = _mlstm_leaves(batch, heads, time, key, value)
        runs[str(time)] = with_gradients(
            lambda leaves=leaves: mlstm(*leaves, backend="native")[0], leaves
        )
    seconds = medians(runs, repeats=15)
    rows = []
    for time in LENGTHS:
        row: dict[str, Any] = {"op": "mlstm", "size": (batch, heads, time, key, value)}
        row |= {"what": "native", "both_ms": round(1e3 * seconds[str(time)], 4)}
        row["microseconds_per_step"] = round(1e6 * seconds[str(time)] / time, 3)
        first = rows[0] if rows else row
        row["times_first"] = round(row["microseconds_per_step"] / first["microseconds_per_step"], 3)
        rows.append(row)
        print(row, flush=True)
    return rows


def small_rows() -> list[dict[str, Any]]:
    """Every backend on a few steps of small heads with a memory to go on from, as in decoding."""
    rows = []
    for batch, time, cells in SMALL:
        q_to_f = _mlstm_leaves(batch, 4, time, cells, cells)
        x_and_r = _slstm_leaves(batch, time, 4, cells)
        for op, function, leaves, size in (
            ("mlstm", mlstm, q_to_f, (batch, 4, time, cells, cells)),
            ("slstm", slstm, x_and_r, (batch, time, 4, cells)),
        ):
            with torch.no_grad():
                _, state = function(*leaves)
            runs: dict[str, Callable[[], torch.Tensor]] = {
                name: lambda name=name, function=function, leaves=leaves, state=state: function(
                    *leaves, state, backend=name
                )[0]
                for name in backends(op)
                if name != "triton"
            }
            rows += rows_of(op, size, runs, leaves, repeats=100)
    return rows


def _mlstm_leaves(batch: int, heads: int, time: int, key: int, value: int) -> list[torch.Tensor]:
    q, k = (torch.randn(batch, time, heads, key) for _ in range(2))
    v = torch.randn(batch, time, heads, value)
    i, f = torch.randn(batch, time, heads), torch.randn(batch, time, heads) + 3
    return [leaf.requires_grad_() for leaf in (q, k, v, i, f)]


def _slstm_leaves(batch: int, time: int, heads: int, cells: int) -> list[torch.Tensor]:
    x = torch.randn(batch, time, heads, 4, cells)
    r = torch.randn(heads, cells, 4, cells) / cells
    return [x.requires_grad_(), r.requires_grad_()]


def rows_of(
    op: str,
    size: tuple[int, ...],
    runs: dict[str, Callable[[], torch.Tensor]],
    leaves: list[torch.Tensor] | dict[str, list[torch.Tensor]],
    flops: int | None = None,
    peak: float | None = None,
    repeats: int = 7,
) -> list[dict[str, Any]]:
    candidates: dict[str, Callable[[], object]] = {}
    for name, run in runs.items():
        candidates[f"{name}/forward"] = without_gradients(run)
        own = leaves[name] if isinstance(leaves, dict) else leaves
        candidates[f"{name}/both"] = with_gradients(run, own)
    seconds = medians(candidates, repeats)
    rows = []
    for name in runs:
        forward, both = seconds[f"{name}/forward"], seconds[f"{name}/both"]
        row: dict[str, Any] = {"op": op, "size": size, "what": name}
        row |= {"forward_ms": round(1e3 * forward, 4), "both_ms": round(1e3 * both, 4)}
        if flops is not None and peak is not None:
            row["forward_share"] = round(flops / forward / 1e9 / peak, 3)
            row["both_share"] = round(3 * flops / both / 1e9 / peak, 3)
        rows.append(row)
        print(row, flush=True)
    return rows


if __name__ == "__main__":
    require_green("tests/ops")
    torch.manual_seed(0)
    limits = ceilings()
    print(limits)
    peak = limits["matmul_gflops"]
    record(
        "ops",
        {
            "ceilings": {name: round(value, 1) for name, value in limits.items()},
            "rows": slstm_rows(peak) + mlstm_rows(peak),
            "lengths": length_rows(),
            "small": small_rows(),
        },
    )
