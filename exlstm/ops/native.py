"""The compiled kernels: where they are, which instruction set, and how to call one.

`CMakeLists.txt` compiles each `*_cpu.cpp` once for every level of the instruction set, a library
each. The best one this machine can run is loaded at first use; `EXLSTM_ISA=v2`, `v3`, `v4` or
`none` in the environment takes that one instead. Threads are torch's, through the function it
exports for that, so `torch.set_num_threads` holds and there is no second pool.

To add a kernel, export `exlstm_<name>_float32` and `exlstm_<name>_float64` from a `*_cpu.cpp` file,
with the parallel loop and the number of threads (`cpu.hpp`) first and then pointers and 64-bit
integers only, and write `call(name, dtype, tensor, None, 3, ...)`.
"""

from __future__ import annotations

import ctypes
import math
import os
import warnings
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

LEVELS = ("v4", "v3", "v2", "baseline")
"""Names of the libraries, best first: x86-64-v4 (AVX-512), -v3 (AVX2), -v2; other machines."""


def library() -> ctypes.CDLL | None:
    """The kernels, loaded on the first call, or `None`: then `reason` says why."""
    return _find()[0]


def reason() -> str | None:
    """Why there are no kernels here, in one line, or `None` if there are."""
    return _find()[1]


def refuse(*tensors: Tensor) -> str | None:
    """Why kernels cannot run an op on these tensors, or `None` if they can.

    That the kernels are missing is also said in a warning, once.
    """
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"it is for the CPU, not {tensor.device.type}"
    return _reason_aloud()


def refuse_mixed(*tensors: Tensor) -> str | None:
    """As `refuse`, for an op that leaves the choice of a dtype to PyTorch.

    Kernels then run only what is float32 or float64 throughout, and nothing under autocast.
    """
    dtypes = {tensor.dtype for tensor in tensors}
    if dtypes not in ({torch.float32}, {torch.float64}):
        names = " with ".join(sorted(map(str, dtypes)))
        return f"it is for float32 alone or float64 alone, not {names}"
    if torch.is_autocast_enabled("cpu"):
        return "autocast chooses the dtype of each operation"
    return refuse(*tensors)


def call(name: str, dtype: torch.dtype, *arguments: Tensor | int | None) -> None:
    """Run a kernel.

    Args:
        name: That of the entry point, `exlstm_<name>_<dtype>`.
        dtype: `torch.float32` or `torch.float64`: which of the two.
        *arguments: What follows the threads: a contiguous tensor is passed as its address, `None`
            as a null pointer.
    """
    words = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            assert argument.is_contiguous()
            words.append(argument.data_ptr())
        else:
            words.append(argument or 0)
    _kernel(name, dtype, len(words))(_parallel_for(), torch.get_num_threads(), *words)


def steps(x: Tensor) -> tuple[Tensor, int]:
    """The same (B, T, ...) with each step contiguous, and how far the next step is.

    A part of a wider tensor, such as one of the results of `chunk` along the last axis, is so
    already and is not copied. Pass it to `call` by its `data_ptr()`.
    """
    (batch, time), tail = x.shape[:2], math.prod(x.shape[2:])
    step = x.stride(1) if time > 1 else x.stride(0) if batch > 1 else tail
    even = step >= tail and (batch == 1 or x.stride(0) == time * step)
    if even and x[0, 0].is_contiguous():
        return x, step
    return x.contiguous(), tail


@cache
def _kernel(name: str, dtype: torch.dtype, words: int):
    kernels = library()
    assert kernels is not None
    function = getattr(kernels, f"exlstm_{name}_{str(dtype).removeprefix('torch.')}")
    # Pointers and 64-bit integers travel alike; plain integers are the quickest to convert.
    function.argtypes = (ctypes.c_int64,) * (2 + words)
    function.restype = None
    return function


@cache
def _find() -> tuple[ctypes.CDLL | None, str | None]:
    wanted = os.environ.get("EXLSTM_ISA")
    if wanted == "none":
        return None, "EXLSTM_ISA=none"
    if wanted is not None and wanted not in LEVELS:
        return None, f"EXLSTM_ISA={wanted} is none of {', '.join(LEVELS)}, none"
    found = [level for level in LEVELS if _path(level)]
    if not found:
        return None, "the compiled kernels are not installed (no C++ compiler at installation?)"
    for level in found if wanted is None else [wanted]:
        path = _path(level)
        if path is None:
            return None, f"EXLSTM_ISA={level}: only {', '.join(found)} are installed"
        try:
            kernels = ctypes.CDLL(str(path))
        except OSError as error:
            return None, f"the compiled kernels do not load: {str(error).splitlines()[0]}"
        if kernels.exlstm_cpu_runs(level.encode()):
            return kernels, None
    return None, f"this processor cannot run {' or '.join(found if wanted is None else [wanted])}"


def _path(level: str) -> Path | None:
    import exlstm.ops  # its path has two places where the package is installed as editable

    for folder in exlstm.ops.__path__:
        path = Path(folder) / f"libexlstm_cpu_{level}.so"
        if path.exists():
            return path
    return None


@cache
def _parallel_for() -> int:
    """The address of torch's parallel loop, or 0: then kernels run on one thread."""
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        if (folder / name).exists():
            function = getattr(ctypes.CDLL(str(folder / name)), "torch_parallel_for", None)
            return ctypes.cast(function, ctypes.c_void_p).value or 0 if function else 0
    return 0


@cache
def _say_once(missing: str) -> None:
    warnings.warn(f"exlstm runs without its compiled kernels: {missing}", stacklevel=2)


def _reason_aloud() -> str | None:
    missing = reason()
    if missing is not None:
        _say_once(missing)
    return missing


# For torch.compile: take the result, do not trace the search. This is all that
# torch.compiler.assume_constant_result does, after an import of a second.
_reason_aloud._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
