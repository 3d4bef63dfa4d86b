"""Every compiled kernel at every level of the instruction set this machine runs.

The whole contract, and the same bits from run to run, with any number of threads and with tasks in
any order. What has a backend "native" in `CASES` is tested without another line.
"""

import ctypes

import pytest
import torch

from exlstm.ops import backends, native
from exlstm.testing import (
    CASES,
    DTYPES,
    OPS,
    Case,
    Results,
    assert_as_accurate,
    check_contract,
    make_inputs,
    run,
    to_double,
)


def has_kernels(op: str) -> bool:
    try:
        return "native" in backends(op)
    except ValueError:  # an op of one implementation is in no table
        return False


WITH_KERNELS = [op for op in CASES if has_kernels(op)]
# Enough work to be divided among threads: by heads and rows, with fewer of them than threads, in
# one step, and in sizes that divide nothing; and gates that are extreme in whole vectors.
LARGE = (
    Case(name="heads", T=256, K=64, V=64),
    Case(name="one-head", B=1, T=200, H=1, K=32, V=96, state=True),
    Case(name="one-step", B=8, T=1, H=4, K=96, V=96, state=True),
    Case(name="ragged", B=5, T=70, H=1, K=33, V=47, state=True, mask=True, reset=True),
    Case(name="extreme-wide", T=67, H=3, K=32, V=33, gates="extreme"),
)


def on_threads(count: int, op: str, case: Case, dtype: torch.dtype) -> Results:
    torch.set_num_threads(count)
    return run(OPS[op], make_inputs(op, case, dtype), backend="native")


def assert_same_bits(got: Results, want: Results) -> None:
    assert list(got) == list(want)
    for name in want:
        one, other = (x[name].flatten().view(torch.uint8) for x in (got, want))
        assert torch.equal(one, other), name


@pytest.mark.usefixtures("level", "threads")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("op", "case"), [pytest.param(op, x, id=f"{op}-{x}") for op in WITH_KERNELS for x in CASES[op]]
)
def test_contract(op: str, case: Case, dtype: torch.dtype) -> None:
    torch.set_num_threads(1)
    check_contract(op, case, dtype, "native")
    want = on_threads(1, op, case, dtype)
    for count in (1, 2, 3):
        assert_same_bits(on_threads(count, op, case, dtype), want)


@pytest.mark.usefixtures("level", "threads")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES["slstm"] + LARGE, ids=str)
def test_slstm_with_the_gates_first(case: Case, dtype: torch.dtype) -> None:
    """As a dense map gives x: the same bits, and a gradient that lies as x does."""
    inputs = make_inputs("slstm", case, dtype)
    want = on_threads(1, "slstm", case, dtype)
    inputs["x"] = inputs["x"].transpose(2, 3).contiguous().transpose(2, 3)
    for count in (1, 3):
        torch.set_num_threads(count)
        got = run(OPS["slstm"], inputs, backend="native")
        assert_same_bits(got, want)
        assert got["grad.x"].transpose(2, 3).is_contiguous()


WHOLE = (Case(name="step-whole", B=1, T=1, V=48), Case(name="steps-whole", B=3, T=1, H=1, V=64))


@pytest.mark.usefixtures("level", "threads")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES["slstm"] + LARGE + WHOLE, ids=str)
def test_slstm_with_weights_by_rows(case: Case, dtype: torch.dtype) -> None:
    """As `nn.LSTM` has them: to gate and cell, from."""
    inputs = make_inputs("slstm", case, dtype)
    plain, truth = (run(OPS["slstm"], x, backend="reference") for x in (inputs, to_double(inputs)))
    inputs["r"] = inputs["r"].permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2)
    torch.set_num_threads(1)
    want = run(OPS["slstm"], inputs, backend="native")
    assert_as_accurate(want, plain, truth, dtype)
    torch.set_num_threads(3)
    assert_same_bits(run(OPS["slstm"], inputs, backend="native"), want)


class Backwards:
    """In place of torch's loop: one thread, the last task first, each on its own."""

    def __init__(self) -> None:
        self.most = 0
        body = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
        loop = ctypes.CFUNCTYPE(ctypes.c_int32, *(ctypes.c_int64,) * 3, body, ctypes.c_void_p)
        self._loop = loop(self._run)
        self.address = ctypes.cast(self._loop, ctypes.c_void_p).value

    def _run(self, begin: int, end: int, grain: int, body, context: int) -> int:
        self.most = max(self.most, end - begin)
        for task in reversed(range(begin, end)):
            body(task, task + 1, context)
        return 0


@pytest.fixture
def backwards(monkeypatch: pytest.MonkeyPatch) -> Backwards:
    loop = Backwards()
    monkeypatch.setattr(native, "_parallel_for", lambda: loop.address)
    return loop


@pytest.mark.usefixtures("level", "threads")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", LARGE, ids=str)
@pytest.mark.parametrize("op", WITH_KERNELS)
def test_divided_work(op: str, case: Case, dtype: torch.dtype) -> None:
    """The contract where threads share the work."""
    torch.set_num_threads(3)
    check_contract(op, case, dtype, "native")
    want = on_threads(1, op, case, dtype)
    for count in (2, 3, 7):
        got = on_threads(count, op, case, dtype)
        assert_same_bits(on_threads(count, op, case, dtype), got)
        assert_same_bits(got, want)


@pytest.mark.usefixtures("level", "threads")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("op", WITH_KERNELS)
def test_any_order_of_tasks(op: str, dtype: torch.dtype, backwards: Backwards) -> None:
    for case in LARGE:
        want = on_threads(1, op, case, dtype)
        for count in (2, 7):
            got = on_threads(count, op, case, dtype)
            assert_same_bits(got, want)
    assert backwards.most > 1, "no work was divided: this and the test above prove nothing"
