"""A linear map with weights of one, two or four bytes, by the compiled kernel of `linear_cpu.cpp`.

It reads each weight once for a few rows, which is what a decoding step waits for. For inference: it
has no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from exlstm.ops import native, transforms
from exlstm.shapes import Float

torch.library.define("exlstm::linear_rows", "(Tensor x, Tensor weight, Tensor? scale) -> Tensor")


def linear_rows(
    x: Float[Tensor, "*S X"], weight: Tensor, scale: Float[Tensor, " Y"] | None = None
) -> Float[Tensor, "*S Y"]:
    """`x @ weight.T * scale` in float32; `weight` (Y, X) is int8, bfloat16 or float32."""
    return torch.ops.exlstm.linear_rows(x, weight, scale)


@torch.library.impl("exlstm::linear_rows", "cpu")
def _forward(x: Tensor, weight: Tensor, scale: Tensor | None) -> Tensor:
    y = _forward_fake(x, weight, scale)
    size, rows = weight.shape[1], x.numel() // x.shape[-1]
    name = f"linear_{str(weight.dtype).removeprefix('torch.')}"
    native.call(name, x.dtype, rows, size, len(weight), x.contiguous(), weight, scale, y)
    return y


@torch.library.register_fake("exlstm::linear_rows")
def _forward_fake(x: Tensor, weight: Tensor, scale: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


transforms.register_vmap("linear_rows")
