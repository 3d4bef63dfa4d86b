"""The Triton kernels on a GPU: first the contract in every dtype, then speed beside peers.

`python benchmarks/gpu.py` is all. A peer that is not installed, or fails, is a row that says so.
`--dry-run` goes through everything that is ours with toy shapes, on a CPU under
`TRITON_INTERPRET=1` too, and writes nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from record import record
from timing import with_gradients, without_gradients

from exlstm.models import XLSTMLanguageModel
from exlstm.models.config import xlstm_7b
from exlstm.ops import backends, mlstm, slstm, use_backend
from exlstm.ops.triton_support import triton_problem
from exlstm.testing import CASES, OPS, Case, assert_as_accurate, make_inputs, run, to_double

Row = dict[str, Any]
MLSTM_SHAPES = tuple((65536 // time, 8, time, 256, 512) for time in (2048, 8192, 32768))  # BHTKV
SLSTM_SHAPES = ((16, 1024, 4, 64), (16, 1024, 4, 256), (16, 1024, 1, 768))  # B T H V
TOY_MLSTM, TOY_SLSTM = ((1, 1, 5, 3, 2),), ((1, 3, 1, 4),)
BATCHES = (1, 8)


def contract_rows(device: str, dtypes: tuple[torch.dtype, ...], cases: int | None) -> list[Row]:
    """Every case of the op contract on the device; its tables know float16 as bfloat16."""
    rows = []
    for op in ("mlstm", "slstm"):
        if "triton" not in backends(op):
            rows.append({"contract": op, "missing": "no backend 'triton'"})
            continue
        for dtype in dtypes:
            broken = [
                case.name
                for case in CASES[op][:cases]
                if (message := _broken(op, case, dtype, device)) is not None
                and not print(f"{op} {case} {dtype}: {message}", flush=True)
            ]
            rows.append({"contract": op, "dtype": str(dtype), "broken": broken})
            print(rows[-1], flush=True)
    return rows


def _broken(op: str, case: Case, dtype: torch.dtype, device: str) -> str | None:
    """What is wrong with a case, or `None`."""

    def there(value: Any) -> Any:
        if isinstance(value, tuple):
            return type(value)(*(part.to(device) for part in value))
        return value.to(device) if isinstance(value, torch.Tensor) else value

    def on_device(**inputs: Any) -> Any:
        moved = {name: there(value) for name, value in inputs.items()}
        output, state = OPS[op](**moved, backend="triton")
        return output.cpu(), type(state)(*(part.cpu() for part in state))

    inputs = make_inputs(op, case, dtype)
    plain = run(OPS[op], inputs, backend="reference")
    truth = run(OPS[op], to_double(inputs), backend="reference")
    row = torch.bfloat16 if dtype == torch.float16 else dtype
    try:
        assert_as_accurate(run(on_device, inputs), plain, truth, row)
    except Exception as error:  # a kernel that does not compile breaks the contract too
        return str(error)
    return None


def seconds(call: Callable[[], object], device: str, repeats: int = 20) -> float:
    """The median time of a call, after three that warm up."""
    taken = []
    for round_ in range(repeats + 3 if device == "cuda" else 2):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        if round_ >= min(3, repeats):
            taken.append(time.perf_counter() - start)
        last = time.perf_counter() - start
    return statistics.median(taken or [last])


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def ceilings(device: str, dtype: torch.dtype, size: int) -> dict[str, float]:
    """What the card does at best: a large product, and a large copy (read and written)."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    x = torch.empty(16 * size * size, device=device)
    y = torch.empty_like(x)
    product, copy = seconds(lambda: a @ b, device), seconds(lambda: y.copy_(x), device)
    return {"tflops": 2 * size**3 / product / 1e12, "gbytes": 2 * x.nbytes / copy / 1e9}


def timed(
    row: Row, make: Callable[[], tuple[Callable[[], torch.Tensor], list]], device: str
) -> Row:
    """A row with the times of a call, forward alone and with gradients, or why there are none."""
    try:
        call, leaves = make()
        row["forward_ms"] = 1e3 * seconds(without_gradients(call), device)
        row["both_ms"] = 1e3 * seconds(with_gradients(call, leaves), device)
    except Exception as error:  # a peer may fail in any way: the row says how
        row["missing"] = (
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )
    print(row, flush=True)
    return row


def mlstm_rows(shapes: tuple, device: str, dtype: torch.dtype, limits: dict) -> list[Row]:
    """Ours, TFLA, attention, simple GLA and Mamba-2. The share counts chunks of 256 steps."""
    rows = []
    for batch, heads, length, key, value in shapes:

        def leaf(*sizes: int) -> torch.Tensor:
            return torch.randn(*sizes, device=device, dtype=dtype, requires_grad=True)

        q, k = (leaf(batch, length, heads, key) for _ in range(2))
        v, i, f = leaf(batch, length, heads, value), *(leaf(batch, length, heads) for _ in range(2))
        turned = [x.detach().transpose(1, 2).contiguous().requires_grad_() for x in (q, k, v, i, f)]

        def ours(gate: Any, q=q, k=k, v=v, i=i, f=f):
            return lambda: mlstm(q, k, v, i, f, input_gate=gate, backend="triton")[0], [
                q,
                k,
                v,
                i,
                f,
            ]

        def tfla(name: str, leaves=turned):
            from mlstm_kernels.torch import get_mlstm_kernel

            kernel = get_mlstm_kernel(f"chunkwise--{name}")
            return lambda: kernel(*leaves, chunk_size=128), leaves

        def attention(leaves=turned[:3]):
            return lambda: F.scaled_dot_product_attention(*leaves, is_causal=True), leaves

        def simple_gla(q=q, k=k, v=v, f=f):
            from fla.ops.simple_gla import chunk_simple_gla

            return lambda: chunk_simple_gla(q, k, v, g=F.logsigmoid(f.float()))[0], [q, k, v, f]

        def mamba(q=q, k=k, v=v, i=i):
            from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

            a = -torch.ones(v.shape[2], device=v.device)
            return lambda: mamba_chunk_scan_combined(v, F.softplus(i), a, k, q, 256), [q, k, v, i]

        flops = batch * heads * length * (min(256, length) * (key + value) + 4 * key * value)
        for name, make in {
            "exlstm exp": lambda ours=ours: ours("exp"),
            "exlstm sigmoid": lambda ours=ours: ours("sigmoid"),
            "mlstm_kernels TFLA exp": lambda tfla=tfla: tfla("triton_xl_chunk"),
            "mlstm_kernels TFLA sigmoid": lambda tfla=tfla: tfla("triton_xl_chunk_siging"),
            "scaled_dot_product_attention": attention,
            "fla simple GLA": simple_gla,
            "mamba_ssm Mamba-2": mamba,
        }.items():
            size = (batch, heads, length, key, value)
            row = timed({"op": "mlstm", "size": size, "what": name}, make, device)
            if "both_ms" in row and "exlstm" in name:
                row["both_share"] = 3 * flops / row["both_ms"] / 1e9 / limits["tflops"]
            rows.append(row)
    return rows


def slstm_rows(shapes: tuple, device: str, dtype: torch.dtype) -> list[Row]:
    """Ours, FlashRNN's fused kernel, and an LSTM of the same width."""
    rows = []
    for batch, length, heads, cells in shapes:
        x = torch.randn(batch, length, heads, 4, cells, device=device, dtype=dtype)
        r = torch.randn(heads, cells, 4, cells, device=device, dtype=dtype) / cells
        leaves = [x.requires_grad_(), r.requires_grad_()]

        def ours(leaves=leaves):
            return lambda: slstm(*leaves, backend="triton")[0], leaves

        def flashrnn(x=x, r=r, heads=heads, cells=cells):
            from flashrnn import flashrnn

            wx = x.detach().transpose(2, 3).contiguous().requires_grad_()
            weights = r.detach().permute(2, 0, 3, 1).contiguous().requires_grad_()
            bias = torch.zeros(4, heads, cells, device=x.device, dtype=x.dtype)
            fused = partial(flashrnn, wx, weights, bias, function="slstm", backend="cuda_fused")
            return lambda: fused()[0], [wx, weights]

        def lstm(size=(batch, length, heads * cells)):
            layer = torch.nn.LSTM(size[2], size[2], batch_first=True, device=device, dtype=dtype)
            inputs = torch.randn(*size, device=device, dtype=dtype, requires_grad=True)
            return lambda: layer(inputs)[0], [inputs, *layer.parameters()]

        makers = {"exlstm": ours, "flashrnn cuda_fused": flashrnn, "torch.nn.LSTM": lstm}
        for name, make in makers.items():
            size = (batch, length, heads, cells)
            rows.append(timed({"op": "slstm", "size": size, "what": name}, make, device))
    return rows


@torch.no_grad()
def decoding_rows(toy: bool, device: str, dtype: torch.dtype, limits: dict) -> list[Row]:
    """A token of a model of the 7B's shape, replayed as a CUDA graph where there is one."""
    config = xlstm_7b()
    if toy:
        config = replace(config, vocab_size=32, d_model=8, pattern="M", num_heads=1, d_qk=4, d_ff=8)
    with torch.device(device):
        model = XLSTMLanguageModel(config).to(dtype).eval()
    rows = []
    for batch in BATCHES:
        token = torch.ones(batch, 1, dtype=torch.long, device=device)
        _, state = model(token)
        for _ in range(3 if device == "cuda" else 0):  # kernels are chosen before the capture
            model(token, state)

        def step(token=token, state=state) -> None:
            model(token, state)

        call: Callable[[], object] = step
        if device == "cuda":
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            call = graph.replay
        taken = seconds(call, device)
        tensors = torch.utils._pytree.tree_leaves(state)
        moved = sum(p.nbytes for p in model.parameters()) + 2 * sum(x.nbytes for x in tensors)
        row = {"op": "decoding", "batch": batch, "ms": 1e3 * taken}
        row |= {"gbytes": moved / taken / 1e9, "share": moved / taken / 1e9 / limits["gbytes"]}
        rows.append(row)
        print(row, flush=True)
    return rows


def main() -> None:
    """Run everything in turn, and write `results/gpu.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true")
    toy = parser.parse_args().dry_run
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not toy and device == "cpu":
        raise SystemExit("there is no GPU here: --dry-run goes through it with toy shapes")
    if reason := triton_problem(torch.zeros(1, device=device)):
        raise SystemExit(f"the Triton kernels do not run here: {reason}")
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    dtypes = (torch.float32, torch.bfloat16, torch.float16) if device == "cuda" else (dtype,)
    limits = ceilings(device, dtype, 64 if toy else 8192)
    print(limits, flush=True)
    contract = contract_rows(device, dtypes, 1 if toy else None)
    if wrong := [row for row in contract if row.get("broken")]:
        raise SystemExit(f"the contract is broken, nothing is measured: {wrong}")
    rows = mlstm_rows(TOY_MLSTM if toy else MLSTM_SHAPES, device, dtype, limits)
    rows += slstm_rows(TOY_SLSTM if toy else SLSTM_SHAPES, device, dtype)
    with use_backend("triton", "reference"):
        rows += decoding_rows(toy, device, dtype, limits)
    if not toy:
        card = torch.cuda.get_device_name()
        record("gpu", {"card": card, "ceilings": limits, "contract": contract, "rows": rows})


if __name__ == "__main__":
    main()
