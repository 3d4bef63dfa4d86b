"""How the compiled kernels are found and called, and life without them."""

import os
import subprocess
import sys

import pytest
import torch

from exlstm.ops import BackendError, explain, native, slstm
from exlstm.testing import Case, make_inputs

needs_kernels = pytest.mark.skipif(native.library() is None, reason=str(native.reason()))


def python(code: str, isa: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EXLSTM_ISA": isa, "OMP_NUM_THREADS": "2"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


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
