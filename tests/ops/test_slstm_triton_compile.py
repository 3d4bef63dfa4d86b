"""The sLSTM's Triton kernels compile for GPUs that are not here, and fit on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from triton_compile import SHARED_LIMIT, compile_kernel

from exlstm.ops.triton_support import INSTALLED, interprets

pytestmark = [
    pytest.mark.skipif(not INSTALLED, reason="triton is not installed"),
    pytest.mark.skipif(interprets(), reason="nothing is compiled under TRITON_INTERPRET=1"),
]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def argument_types(kernel: Any, dtype: str) -> dict[str, str]:
    """The Triton type of each argument."""
    narrow = ("x", "r", "h0", "h", "dx", "dh")

    def type_of(name: str) -> str:
        if name in tuple("BTHV") or name[:-1] in ("x_", "dx_"):
            return "i32"
        return "*i1" if name in ("mask", "reset") else f"*{dtype if name in narrow else 'fp32'}"

    return {name: type_of(name) for name in kernel.arg_names}


def constants(kernel: Any, **values: Any) -> dict[str, Any]:
    """Those of these that the kernel has."""
    values = {"EXP_FORGET": False, "ROWS": 16, **values}
    return {name: value for name, value in values.items() if name in kernel.arg_names}


def ways(V: int, dtype: str, capability: int) -> Iterator[tuple[Any, int, dict[str, int]]]:
    """What the first call on such a GPU tries: a module of kernels, warps, and constants."""
    from exlstm.ops import slstm_triton_launch as launch
    from exlstm.ops import slstm_triton_on_chip, slstm_triton_streamed

    if launch.fits_on_chip(V, DTYPES[dtype], SHARED_LIMIT[capability]):
        for warps, stages in launch.ON_CHIP_CONFIGS:
            yield slstm_triton_on_chip, warps, {"CELLS": launch.padded(V), "STAGES": stages}
    else:
        for cells, warps, stages in launch.STREAMED_CONFIGS:
            yield slstm_triton_streamed, warps, {"CELLS": cells, "STAGES": stages}


@pytest.mark.parametrize("capability", SHARED_LIMIT)
@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.parametrize(
    ("dtype", "V"),
    # The sizes of a head share their kernels if the weights of neither fit on the chip.
    [("bf16", 64), ("bf16", 128), ("bf16", 256), ("fp32", 64), ("fp32", 128)],
)
def test_one_of_the_first_two_configurations_fits(
    dtype: str, V: int, way: str, capability: int
) -> None:
    """With all that a call can have, and no register spilled. `pytest -rP` prints the table."""
    for module, warps, tile in list(ways(V, dtype, capability))[:2]:
        kernel = getattr(module, way)
        types, values = argument_types(kernel, dtype), constants(kernel, **tile)
        used = compile_kernel(kernel, types, values, capability, num_warps=warps, num_stages=3)
        print(f"{capability} {dtype} V={V} {way} {tile} {warps} warps: {used}")
        if used.spills == 0 and used.shared <= SHARED_LIMIT[capability]:
            return
    pytest.fail("none fits")


@pytest.mark.parametrize("capability", SHARED_LIMIT)
def test_large_heads_share_their_kernels(capability: int) -> None:
    for dtype, sizes in (("bf16", (256, 512, 1024)), ("fp32", (128, 256, 512))):
        assert len({str(list(ways(V, dtype, capability))) for V in sizes}) == 1


@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.parametrize("where", ["on_chip", "streamed"])
def test_the_smallest_call_compiles(where: str, way: str) -> None:
    """Sizes of 1 are constants to Triton, and so is what is not there."""
    from exlstm.ops import slstm_triton_on_chip, slstm_triton_streamed

    modules = {"on_chip": slstm_triton_on_chip, "streamed": slstm_triton_streamed}
    kernel = getattr(modules[where], way)
    missing = dict.fromkeys(("mask", "reset"))
    if way == "forward":  # a decoding step
        missing |= dict.fromkeys(("gates", "cells"))
    sizes = dict.fromkeys((*"BTHV", "x_g", "dx_g"), 1)
    values = constants(kernel, **missing, **sizes, CELLS=16, STAGES=2, EXP_FORGET=True)
    compile_kernel(kernel, argument_types(kernel, "fp16"), values, 80, num_warps=4, num_stages=3)
