"""The mLSTM's Triton kernels compile for compute capability 8.0 and 9.0, without a GPU.

`pytest -s` prints the table: registers, spilled bytes and shared memory of each.
"""

from typing import Any

import pytest
import torch

from exlstm.ops.triton_support import INSTALLED, interprets

pytestmark = pytest.mark.skipif(
    not INSTALLED or interprets(), reason="needs triton, and no TRITON_INTERPRET=1"
)

KERNELS = (
    "memories", "outputs", "division", "memory_gradients", "query_gradients", "key_gradients",
    "value_gradients", "gate_gradients", "m_gradient", "step",
)  # fmt: skip
NARROW = ("q", "k", "v", "h", "dh", "dq", "dk", "dv")
INTEGERS = ("T", "H", "q_step", "k_step", "v_step", "q_row", "k_row", "v_row")
# Bytes a thread: tiles of this size fill the registers, and a little more.
MOST_SPILLS = 512


def types(kernel: Any, dtype: torch.dtype) -> dict[str, str]:
    narrow = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}[dtype]

    def kind(name: str) -> str:
        if name in NARROW:
            return narrow
        if name in INTEGERS:
            return "i32"
        return "fp32" if name == "scale" else "*i32" if "winner" in name else "*fp32"

    return {name: kind(name) for name in kernel.arg_names}


def check(name: str, key: int, value: int, dtype: torch.dtype, capability: int, way: int) -> None:
    from triton_compile import SHARED_LIMIT, compile_kernel

    from exlstm.ops import mlstm_triton_launch as launch

    kernel = getattr(launch, f"{name}_kernel")
    tile, chunk = launch.tiling(key, value, dtype)
    block_k, block_v, warps, stages = launch.CONFIGS.get(name, ((64, 64, 4, 3),))[way]
    constants = {
        "K": key, "V": value, "NORMALISED": True, "KEEP": True, "TILE": tile, "CHUNK": chunk,
        "BLOCK_K": launch.block(key, block_k or launch.LARGEST_BLOCK),
        "BLOCK_V": launch.block(value, block_v),
    }  # fmt: skip
    constants = {constant: x for constant, x in constants.items() if constant in kernel.arg_names}
    used = compile_kernel(kernel, types(kernel, dtype), constants, capability, warps, stages)
    print(f"\n{name:17} {capability / 10} K {key:3} V {value:3} {dtype} {block_k, block_v}: {used}")
    assert used.registers <= 255
    assert used.spills <= MOST_SPILLS
    assert used.shared <= SHARED_LIMIT[capability]


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", KERNELS)
def test_shape_of_the_7b_model(name: str, capability: int) -> None:
    check(name, 256, 512, torch.bfloat16, capability, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_small_odd_shape(name: str, dtype: torch.dtype) -> None:
    check(name, 17, 9, dtype, 80, 0)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_every_way_to_cut_the_work(name: str, dtype: torch.dtype, capability: int) -> None:
    from exlstm.ops import mlstm_triton_launch as launch

    for way in range(len(launch.CONFIGS.get(name, "1"))):
        check(name, 256, 512, dtype, capability, way)
