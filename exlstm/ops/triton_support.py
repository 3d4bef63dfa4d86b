"""Whether Triton's kernels can run here. Triton itself is not imported before one of them does."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

INSTALLED = find_spec("triton") is not None
LEAST_CAPABILITY = (8, 0)


def triton_problem(*tensors: Tensor) -> str | None:
    """Why Triton cannot run an op on these tensors, or `None` if it can.

    With `TRITON_INTERPRET=1` in the environment it runs on the CPU too, in Python: for tests.
    """
    if not INSTALLED:
        return "triton is not installed"
    for tensor in tensors:
        if tensor.dtype == torch.float64:
            return "it is for float32 and narrower, not float64"
        if interprets():
            # Its products of bfloat16 are wrong by orders of magnitude, without a word.
            if tensor.dtype != torch.float32:
                return f"under TRITON_INTERPRET=1 it is for float32, not {tensor.dtype}"
        elif tensor.device.type != "cuda":
            return f"it is for CUDA, not {tensor.device.type}"
        elif _capability(tensor.device) < LEAST_CAPABILITY:
            major, minor = _capability(tensor.device)
            return f"it needs compute capability 8.0, this GPU has {major}.{minor}"
    return None


def filled(
    outputs: tuple[Tensor, ...], launch: Callable[..., None], arguments: Sequence[Any]
) -> tuple[Tensor, ...]:
    """The outputs, once `launch(*arguments, outputs)` has written them by kernels."""
    with torch.cuda.device_of(outputs[0]):  # Triton takes the current device, not the tensors'
        launch(*arguments, outputs)
    return outputs


def interprets() -> bool:
    """Whether kernels run in Python, on any device."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


# For torch.compile: take the results, do not trace the search (as in native.py).
for _function in (interprets, _capability):
    _function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
