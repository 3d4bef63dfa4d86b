"""The mLSTM's Triton kernels, interpreted on the CPU: `TRITON_INTERPRET=1 pytest` on this file.

float32 only: products of narrower numbers are wrong in Triton's interpreter.
"""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from exlstm.ops import BackendError, MLSTMState, explain, mlstm, mlstm_triton
from exlstm.ops.triton_support import INSTALLED, interprets
from exlstm.testing import (
    CASES,
    EMPTY_BELOW,
    Case,
    assert_as_accurate,
    check_contract,
    generator,
    make_inputs,
    run,
    to_double,
)

needs_interpreter = pytest.mark.skipif(
    not (INSTALLED and interprets()), reason="needs triton and TRITON_INTERPRET=1"
)
SMALL = Case(name="small", B=2, T=37, H=2, K=3, V=2, state=True, mask=True, reset=True)


def as_accurate(inputs: dict[str, Any]) -> None:
    assert_as_accurate(
        run(mlstm, inputs, backend="triton"),
        run(mlstm, inputs, backend="reference"),
        run(mlstm, to_double(inputs), backend="reference"),
        torch.float32,
    )


@needs_interpreter
@pytest.mark.parametrize("case", CASES["mlstm"], ids=str)
def test_outputs_states_and_gradients(case: Case) -> None:
    check_contract("mlstm", case, torch.float32, "triton")


@needs_interpreter
@pytest.mark.parametrize(
    "case",
    [
        Case(name="tiles", B=1, T=113, H=2, K=3, V=2, state=True, reset=True),
        Case(name="tiles-extreme", B=1, T=97, H=1, K=3, V=2, state=True, gates="extreme"),
        Case(name="tiles-sig", B=1, T=96, H=1, K=3, V=2, state=True, input_gate="sigmoid"),
    ],
    ids=str,
)
def test_four_tiles_to_a_chunk(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as chunks of 256 steps have on a GPU."""
    from exlstm.ops import mlstm_triton_launch

    for module in (mlstm_triton, mlstm_triton_launch):
        monkeypatch.setattr(module, "tiling", lambda key, value, dtype: (16, 64))
    as_accurate(make_inputs("mlstm", case, torch.float32))


@needs_interpreter
def test_empty_rows_and_ties() -> None:
    """A row masked throughout, a row reset where it is masked, and equal candidates for m."""
    inputs = make_inputs("mlstm", Case(name="empty", B=4, T=34, H=1, state=True), torch.float32)
    inputs["mask"] = torch.ones(4, 34, dtype=torch.bool)
    inputs["mask"][0] = False
    inputs["mask"][1, 3:] = False
    inputs["mask"][2] = False
    inputs["reset"] = torch.zeros(4, 34, dtype=torch.bool)
    inputs["reset"][1, 4] = inputs["reset"][2, 2] = True
    inputs["forget_gate"] = "exp"
    inputs["f"][3], inputs["i"][3] = 0.0, -2.0
    inputs["f"][3, :6] = torch.tensor([0.0, -1.0, 0.0, 1.0, 0.0, -2.0])[:, None]
    inputs["i"][3, :6] = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, -1.0])[:, None]
    inputs["state"].m[3] = 1.0
    as_accurate(inputs)
    assert run(mlstm, inputs, backend="triton")["empty"].tolist() == [[0], [1], [1], [0]]


@needs_interpreter
@pytest.mark.parametrize("forget_gate", ["sigmoid", "exp"])
@pytest.mark.parametrize("i", [-1000.0, 1000.0])
def test_constant_extreme_gates_are_finite(i: float, forget_gate: str) -> None:
    case = Case(name="constant", B=1, T=66, H=1, forget_gate=forget_gate)
    for f in (-1000.0, 1000.0):
        inputs = make_inputs("mlstm", case, torch.float32)
        inputs["i"], inputs["f"] = torch.full_like(inputs["i"], i), torch.full_like(inputs["f"], f)
        for name, tensor in run(mlstm, inputs, backend="triton").items():
            assert tensor.isfinite().all(), f"{name} at f = {f}"


@needs_interpreter
@pytest.mark.parametrize(
    "case",
    [
        Case(name="step", T=1, H=3, K=17, V=19, state=True),
        Case(name="step-first", T=1, K=3, V=2),
        Case(name="step-sig", T=1, K=3, V=2, state=True, input_gate="sigmoid"),
        Case(name="step-packed", B=5, T=1, K=3, V=2, state=True, mask=True, reset=True),
        Case(name="step-strided", B=3, T=1, K=3, V=2, state=True, strided=True),
        Case(name="step-extreme", B=5, T=1, K=3, V=2, state=True, gates="extreme"),
    ],
    ids=str,
)
def test_the_kernel_of_one_step(case: Case) -> None:
    """Without gradients a step has a kernel of its own."""
    inputs = make_inputs("mlstm", case, torch.float32)

    def results(inputs: dict[str, Any], backend: str) -> dict[str, Tensor]:
        with torch.no_grad():
            h, state = mlstm(**inputs, backend=backend)
        empty = state.m < EMPTY_BELOW
        return {"h": h, **state._asdict(), "m": state.m.masked_fill(empty, 0.0)}

    assert_as_accurate(
        results(inputs, "triton"),
        results(inputs, "reference"),
        results(to_double(inputs), "reference"),
        torch.float32,
    )


@needs_interpreter
def test_runs_are_the_same_to_the_bit() -> None:
    inputs = make_inputs("mlstm", SMALL, torch.float32)
    one, other = (run(mlstm, inputs, backend="triton") for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with torch.no_grad():
        h, _ = mlstm(**inputs, backend="triton")
    assert torch.equal(h, one["output"])


@needs_interpreter
@pytest.mark.parametrize("normalised", [False, True], ids=["sigmoid", "exp"])
def test_registered(normalised: bool) -> None:
    case = Case(name="opcheck", B=1, T=5, H=1, K=3, V=2, state=True)
    inputs = make_inputs("mlstm", case, torch.float32)
    log_gates = (torch.nn.functional.logsigmoid(inputs[name]) for name in "if")
    start = (*(inputs[name] for name in "qkv"), *log_gates, *inputs["state"])
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    ops = torch.ops.exlstm
    for keep in (False, True):
        torch.library.opcheck(
            ops.mlstm_triton_forward, (*start, normalised, keep), test_utils=tests
        )
    h, _, _, _, *kept = ops.mlstm_triton_forward(*start, normalised, True)
    gradients = (torch.ones_like(h), *(torch.ones_like(s) for s in inputs["state"]))
    arguments = (*start, h, *kept, *gradients, normalised)
    torch.library.opcheck(ops.mlstm_triton_backward, arguments, test_utils=tests)
    step = (*(x[:, :1] if place < 5 else x for place, x in enumerate(start)), normalised)
    torch.library.opcheck(ops.mlstm_triton_step, step, test_utils=tests)


@needs_interpreter
@pytest.mark.compile
def test_compiled_equals_eager() -> None:
    inputs = make_inputs("mlstm", SMALL, torch.float32) | {"backend": "triton"}
    compiled = torch.compile(mlstm, fullgraph=True, backend="aot_eager")
    one, other = run(compiled, inputs), run(mlstm, inputs)
    assert all(torch.equal(one[name], other[name]) for name in one)


@needs_interpreter
def test_vmap_calls_it_for_each_entry() -> None:
    g = generator("vmap")
    q, k, v = (torch.randn(2, 1, 5, 1, 3, generator=g) for _ in range(3))
    i, f = (torch.randn(2, 1, 5, 1, generator=g) for _ in range(2))

    def loss(*inputs: Tensor) -> Tensor:
        return mlstm(*inputs, backend="triton")[0].square().sum()

    together = torch.func.vmap(torch.func.grad(loss))(q, k, v, i, f)
    for entry in range(2):
        alone = torch.func.grad(loss)(*(x[entry] for x in (q, k, v, i, f)))
        assert torch.equal(together[entry], alone)


@needs_interpreter
def test_the_benchmark_for_a_gpu_goes_through() -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
    done = subprocess.run(
        [sys.executable, str(script), "--dry-run"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [ast.literal_eval(line) for line in done.stdout.splitlines()]
    assert {"contract": "mlstm", "dtype": "torch.float32", "broken": []} in rows
    ours = [row for row in rows if row.get("what") in ("exlstm exp", "exlstm sigmoid")]
    assert len(ours) == 2
    assert all("missing" not in row for row in ours)


def test_reasons() -> None:
    """It runs by name where it can, and never on a CPU unless it is named."""
    inputs = make_inputs("mlstm", SMALL, torch.float64)
    tensors = [inputs[name] for name in ("q", "k", "v", "i", "f")]
    narrow = [x.float() for x in tensors]
    on_cpu = explain("mlstm", *narrow)["triton"]
    if not INSTALLED:
        assert on_cpu == "triton is not installed"
    elif interprets():
        assert "by name only" in on_cpu
        assert "not torch.bfloat16" in explain("mlstm", *(x.bfloat16() for x in tensors))["triton"]
    else:
        assert on_cpu == "it is for CUDA, not cpu"
    if INSTALLED:
        assert "float64" in explain("mlstm", *tensors)["triton"]
    with pytest.raises(BackendError, match="'triton' cannot run this mlstm"):
        mlstm(*tensors, MLSTMState(*inputs["state"]), backend="triton")
    assert torch.equal(mlstm(*narrow)[0], mlstm(*narrow, backend=first_ok(narrow))[0])


def first_ok(tensors: list[Tensor]) -> str:
    name = next(name for name, reason in explain("mlstm", *tensors).items() if reason == "ok")
    assert name != "triton"
    return name
