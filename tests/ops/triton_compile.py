"""Compile Triton kernels without a GPU, and say what they take of one: for tests.

So no first user meets a compile error, and a kernel that has outgrown the chip is seen.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes of shared memory a block can have, for each compute capability."""


class Compiled(NamedTuple):
    """What a compiled kernel takes.

    Attributes:
        registers: Of each thread; a card has 255.
        spills: Bytes of each thread's registers that did not fit, stored and loaded.
        shared: Bytes of shared memory of each block.
    """

    registers: int
    spills: int
    shared: int


def compile_kernel(
    kernel: Any,
    signature: dict[str, str],
    constexprs: dict[str, Any],
    capability: int,
    num_warps: int,
    num_stages: int,
) -> Compiled:
    """Compile a kernel down to machine code.

    Args:
        kernel: A function decorated with `triton.jit`, not interpreted.
        signature: Of each argument that is none of the constants its Triton type, such as
            `"*bf16"` or `"i32"`. Pointers and integers are taken as multiples of 16.
        constexprs: The constants.
        capability: The compute capability, such as 80 or 90.
        num_warps: Warps of a block.
        num_stages: Stages of the software pipeline.

    Returns:
        Registers, spills and shared memory, from `ptxas`.

    Raises:
        RuntimeError: It does not compile.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {
        name: "constexpr" if name in constexprs else signature[name] for name in kernel.arg_names
    }
    values = {(kernel.arg_names.index(name),): value for name, value in constexprs.items()}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, kind in enumerate(types.values())
        if kind.startswith(("*", "i"))
    }
    source = ASTSource(kernel, types, constexprs=values, attrs=aligned)
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": num_warps, "num_stages": num_stages},
    )
    registers, spills = _usage(compiled.asm["ptx"], capability)
    return Compiled(registers, spills, compiled.metadata.shared)


def _usage(ptx: str, capability: int) -> tuple[int, int]:
    """Registers and spilled bytes, as `ptxas --verbose` prints them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        arch = f"sm_{capability}a" if capability >= 90 else f"sm_{capability}"
        command = [_ptxas(), "-v", f"--gpu-name={arch}", str(path), "-o", f"{path}.cubin"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ptxas: {done.stderr.strip()}")
    registers = max(map(int, re.findall(r"Used (\d+) registers", done.stderr)))
    spills = sum(map(int, re.findall(r"(\d+) bytes spill", done.stderr)))
    return registers, spills


def _ptxas() -> str:
    import triton

    packaged = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    return str(packaged) if packaged.exists() else shutil.which("ptxas") or "ptxas"
