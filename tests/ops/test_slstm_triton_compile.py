"""The sLSTM's Triton kernels compile for GPUs that are not here, and fit on them."""

from __future__ import annotations

from typing import Any

import pytest

from exlstm.ops import triton_support

pytestmark = [
    pytest.mark.compile,
    pytest.mark.skipif(not triton_support.INSTALLED, reason="triton is not installed"),
    pytest.mark.skipif(triton_support.interprets(), reason="TRITON_INTERPRET=1 compiles nothing"),
]

WIDTHS = {"bf16": 2, "fp32": 4}
CAPABILITIES = (80, 90)


def argument_types(kernel: Any, dtype: str) -> dict[str, str]:
    """The Triton type of each argument that is not a constant."""
    flags = {"mask": "*i1", "reset": "*i1"}
    narrow = ("x", "r", "h0", "h", "dx", "dh")
    sizes = {name for name in kernel.arg_names if name in "BTHV" or name[:-1] in ("x_", "dx_")}
    return {
        name: "i32" if name in sizes else flags.get(name, f"*{dtype if name in narrow else 'fp32'}")
        for name in kernel.arg_names
    }


def constants(kernel: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Of a run with everything: kept for a gradient, masks and resets."""
    values = {"EXP_FORGET": False, "ROWS": 16, **config}
    return {name: value for name, value in values.items() if name in kernel.arg_names}


def ways(V: int, dtype: str, capability: int) -> tuple[Any, list[tuple[dict[str, Any], int]]]:
    """The kernels that would run, and their configurations: constants and warps."""
    import torch

    from exlstm.ops import slstm_triton_launch as launch
    from exlstm.ops import slstm_triton_on_chip, slstm_triton_streamed
    from exlstm.ops.triton_compile import SHARED_LIMIT

    torch_dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    if launch.fits_on_chip(V, torch_dtype, SHARED_LIMIT[capability]):
        cells = launch.padded(V)
        return slstm_triton_on_chip, [
            ({"CELLS": cells, "STAGES": stages}, warps) for warps, stages in launch.ON_CHIP_CONFIGS
        ]
    return slstm_triton_streamed, [
        ({"CELLS": cells, "STAGES": stages}, warps)
        for cells, warps, stages in launch.STREAMED_CONFIGS
    ]


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.parametrize("dtype", WIDTHS)
@pytest.mark.parametrize("V", [64, 128, 256, 512])
def test_a_configuration_fits(V: int, dtype: str, way: str, capability: int) -> None:
    """At least one, without a register spilled; the table is what `pytest -rP` prints."""
    from exlstm.ops.triton_compile import SHARED_LIMIT, compile_kernel

    module, configs = ways(V, dtype, capability)
    kernel, fitting = getattr(module, way), 0
    for config, warps in configs:
        types, values = argument_types(kernel, dtype), constants(kernel, config)
        used = compile_kernel(kernel, types, values, capability, num_warps=warps, num_stages=3)
        fits = used.spills == 0 and used.shared <= SHARED_LIMIT[capability]
        print(f"{capability} {dtype} V={V} {way} {config} {warps} warps: {used}, fits: {fits}")
        fitting += fits
    assert fitting
