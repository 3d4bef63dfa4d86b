"""The compiled kernels: every instruction set this machine has, threads, and life without them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from exlstm.ops import BackendError, backends, explain, native, slstm
from exlstm.testing import OPS, Case, check_contract, make_inputs, run

WITH_NATIVE = [op for op in OPS if "native" in backends(op)]
CASES = [
    Case(name="isa", B=5, T=9, H=3, K=17, V=19, state=True, mask=True, reset=True),
    Case(name="isa-extreme", T=67, H=3, K=8, V=33, gates="extreme", state=True, activation="silu"),
]
needs_kernels = pytest.mark.skipif(native.library() is None, reason=str(native.reason()))


def python(code: str, isa: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EXLSTM_ISA": isa, "OMP_NUM_THREADS": "2"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


@needs_kernels
@pytest.mark.parametrize("isa", native.LEVELS)
def test_instruction_sets(isa: str) -> None:
    """The contract on each library this processor runs, loaded in a process of its own."""
    code = (
        "import sys\nfrom exlstm.ops import native\n"
        "native.library() or sys.exit('no: ' + native.reason())\n"
        f"sys.path.append({str(Path(__file__).parent)!r})\n"
        "import test_native\ntest_native.contract()"
    )
    done = python(code, isa)
    if done.stderr.startswith("no: "):
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr


def contract() -> None:
    """What `test_instruction_sets` runs, with all memory that is not written poisoned."""
    torch.use_deterministic_algorithms(True)
    for op in WITH_NATIVE:
        for case in CASES:
            for dtype in (torch.float64, torch.float32):
                check_contract(op, case, dtype, "native")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@needs_kernels
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("batch", "heads"), [(7, 1), (2, 3), (1, 5), (2, 13), (1, 13)])
@pytest.mark.parametrize("op", WITH_NATIVE)
def test_any_number_of_threads_gives_the_same_bits(
    op: str, batch: int, heads: int, dtype: torch.dtype
) -> None:
    size = {"B": batch, "H": heads, "T": 70, "K": 32, "V": 40}
    case = Case(name="threads", state=True, mask=True, activation="silu", **size)
    inputs = make_inputs(op, case, dtype)
    results = []
    for count in (1, 2, 3, 1):
        torch.set_num_threads(count)
        results.append(run(OPS[op], inputs, backend="native"))
    for other in results[1:]:
        for name, tensor in results[0].items():
            assert torch.equal(tensor, other[name]), name


@needs_kernels
def test_threads_are_torchs() -> None:
    assert native._parallel_for() != 0


def test_without_kernels_plain_pytorch_runs_and_says_so_once() -> None:
    code = (
        "import torch, exlstm.ops as ops\n"
        "x, r = torch.randn(2, 3, 1, 4, 8), torch.randn(1, 8, 4, 8)\n"
        "h, _ = ops.slstm(x, r)\n"
        "assert torch.equal(h, ops.slstm(x, r, backend='sequential')[0])\n"
        "assert ops.explain('slstm', x, r)['native'] == 'EXLSTM_ISA=none'\n"
        "try: ops.slstm(x, r, backend='native')\n"
        "except ops.BackendError as error: print(error)\n"
    )
    done = python(code, "none")
    assert done.returncode == 0, done.stderr
    assert "EXLSTM_ISA=none" in done.stdout
    assert done.stderr.count("exlstm runs without its compiled kernels") == 1


def test_an_unknown_instruction_set_is_named() -> None:
    done = python("from exlstm.ops import native\nprint(native.reason())", "v9")
    assert "v9" in done.stdout
    assert "v4" in done.stdout


def test_other_devices_are_refused() -> None:
    x, r = torch.zeros(1, 2, 1, 4, 8, device="meta"), torch.zeros(1, 8, 4, 8, device="meta")
    assert "meta" in explain("slstm", x, r)["native"]
    with pytest.raises(BackendError, match="meta"):
        slstm(x, r, backend="native")


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_is_kept_changes_no_bit(dtype: torch.dtype) -> None:
    """Without gradients the kernel keeps no states but the last."""
    inputs = make_inputs("slstm", Case(name="keep", T=12, state=True, mask=True), dtype)
    plain, last = slstm(**inputs, backend="native")
    inputs["r"].requires_grad_()
    kept, kept_last = slstm(**inputs, backend="native")
    assert torch.equal(plain, kept)
    assert all(torch.equal(a, b) for a, b in zip(last, kept_last, strict=True))
