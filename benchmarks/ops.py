"""Speed of the ops and the sLSTM layer, against peers and against what the machine can do.

Everything runs in one process. A peer that is not installed is a row that says so; see
`requirements-peers.txt`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from record import record, require_green
from timing import ceilings, medians, with_gradients, without_gradients

from exlstm.nn import SLSTMMixer
from exlstm.ops import backends, mlstm, slstm

SLSTM_SHAPES = ((16, 512, 4, 128), (8, 256, 4, 32), (1, 512, 4, 32), (1, 1, 4, 128))  # B T H V
MIXER_SHAPES = ((1, 512, 128), (8, 256, 128), (32, 128, 256), (16, 512, 512))  # B T D, 4 heads
MLSTM_SHAPES = (  # B H T K V
    (4, 4, 512, 64, 64),
    (2, 4, 2048, 128, 128),
    (1, 4, 8192, 128, 128),
    (1, 8, 2048, 256, 512),
    (1, 4, 1, 64, 64),
)
CHUNKS = (32, 64, 128, 256)


def slstm_rows(peak: float) -> list[dict[str, Any]]:
    """Every backend; the share counts the recurrent products only, once forward, twice backward."""
    rows = []
    for batch, time, heads, cells in SLSTM_SHAPES:
        x = torch.randn(batch, time, heads, 4, cells, requires_grad=True)
        r = (torch.randn(heads, cells, 4, cells) / cells).requires_grad_()
        runs: dict[str, Callable[[], torch.Tensor]] = {
            name: lambda name=name, x=x, r=r: slstm(x, r, backend=name)[0]
            for name in backends("slstm")
        }
        flops = 2 * batch * time * heads * cells * 4 * cells
        rows += _rows("slstm", (batch, time, heads, cells), runs, [x, r], flops, peak)
    return rows


def mlstm_rows(peak: float) -> list[dict[str, Any]]:
    """Every backend, SDPA and mlstm_kernels; the share counts the causal half at chunks of 64."""
    rows = []
    for batch, heads, time, key, value in MLSTM_SHAPES:
        q, k = (torch.randn(batch, time, heads, key, requires_grad=True) for _ in range(2))
        v = torch.randn(batch, time, heads, value, requires_grad=True)
        i = torch.randn(batch, time, heads, requires_grad=True)
        f = (torch.randn(batch, time, heads) + 3).requires_grad_()
        leaves = [q, k, v, i, f]
        runs: dict[str, Callable[[], torch.Tensor]] = {
            name: lambda name=name, leaves=leaves: mlstm(*leaves, backend=name)[0]
            for name in backends("mlstm")
            if name == "native" or name == "chunkwise" or time <= 512
        }
        per_step = min(64, time) * (key + value) + 4 * key * value
        flops = batch * heads * time * per_step
        size = (batch, heads, time, key, value)
        rows += _rows("mlstm", size, runs, leaves, flops, peak)
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
    rows = _rows("mlstm", size, attention, [q, k, v]) if size[2] <= 8192 else []
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
    return rows + _rows("mlstm", size, runs, heads_first)


def mixer_rows() -> list[dict[str, Any]]:
    """The paper's sLSTM layer without its convolution, beside nn.LSTM of that width."""
    rows = []
    for batch, time, width in MIXER_SHAPES:
        x = torch.randn(batch, time, width, requires_grad=True)
        mixer = SLSTMMixer(width, 4, conv_width=0)
        lstm = torch.nn.LSTM(width, width, batch_first=True)
        runs: dict[str, Callable[[], torch.Tensor]] = {
            "SLSTMMixer": lambda mixer=mixer, x=x: mixer(x)[0],
            "nn.LSTM": lambda lstm=lstm, x=x: lstm(x)[0],
        }
        leaves = {"SLSTMMixer": [x, *mixer.parameters()], "nn.LSTM": [x, *lstm.parameters()]}
        size = (batch, time, width)
        if importlib.util.find_spec("xlstm") is None:
            rows.append(
                {"op": "sLSTM layer", "size": size, "what": "xlstm vanilla", "missing": True}
            )
        else:
            from xlstm import sLSTMLayer, sLSTMLayerConfig

            config = sLSTMLayerConfig(
                embedding_dim=width, num_heads=4, conv1d_kernel_size=0, backend="vanilla"
            )
            theirs = sLSTMLayer(config)
            runs["xlstm vanilla"] = lambda theirs=theirs, x=x: theirs(x)
            leaves["xlstm vanilla"] = [x, *theirs.parameters()]
        rows += _rows("sLSTM layer", size, runs, leaves)
    return rows


def _rows(
    op: str,
    size: tuple[int, ...],
    runs: dict[str, Callable[[], torch.Tensor]],
    leaves: list[torch.Tensor] | dict[str, list[torch.Tensor]],
    flops: int | None = None,
    peak: float | None = None,
) -> list[dict[str, Any]]:
    candidates: dict[str, Callable[[], object]] = {}
    for name, run in runs.items():
        candidates[f"{name}/forward"] = without_gradients(run)
        own = leaves[name] if isinstance(leaves, dict) else leaves
        candidates[f"{name}/both"] = with_gradients(run, own)
    seconds = medians(candidates)
    rows = []
    for name in runs:
        forward, both = seconds[f"{name}/forward"], seconds[f"{name}/both"]
        row: dict[str, Any] = {"op": op, "size": size, "what": name}
        row |= {"forward_ms": round(1e3 * forward, 3), "both_ms": round(1e3 * both, 3)}
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
    rows = slstm_rows(peak) + mixer_rows() + mlstm_rows(peak)
    record(
        "ops", {"ceilings": {name: round(value, 1) for name, value in limits.items()}, "rows": rows}
    )
