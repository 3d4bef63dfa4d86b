"""How the Triton kernels of the sLSTM are called, and the ways to run them they choose from.

Imports Triton: it is imported at the first call of one of the ops in `slstm_triton.py`.
"""
# pyright: reportMissingImports=false

from __future__ import annotations

import torch
import triton
from torch import Tensor

from exlstm.ops import slstm_triton_on_chip as on_chip
from exlstm.ops import slstm_triton_streamed as streamed
from exlstm.ops.triton_support import interprets

ROWS = 16
"""Batch rows of a program: the fewest that a product of Triton takes."""

BESIDE_WEIGHTS = 32 * 1024
"""Bytes of shared memory that the kernels on the chip use for other things than weights."""

# num_warps and STAGES; for the streamed kernels also CELLS. One that does not fit is passed over.
ON_CHIP_CONFIGS = ((8, 2), (8, 1), (4, 2))
STREAMED_CONFIGS = ((64, 8, 3), (64, 8, 2), (32, 4, 3), (32, 4, 2))


def _tuned(kernel, configs):
    """A kernel that measures its configurations once for each size of a head, dtypes and device."""
    return triton.autotune(configs, key=["V"], cache_results=True)(kernel)


def _on_chip(kernel):
    ways = ((4, 1),) if interprets() else ON_CHIP_CONFIGS
    return _tuned(
        kernel, [triton.Config({"STAGES": stages}, num_warps=warps) for warps, stages in ways]
    )


def _streamed(kernel):
    # Interpreted, tiles are the smallest that Triton takes: small tests then have several.
    ways = ((16, 4, 1),) if interprets() else STREAMED_CONFIGS
    configs = [
        triton.Config({"CELLS": cells, "STAGES": stages}, num_warps=warps)
        for cells, warps, stages in ways
    ]
    return _tuned(kernel, configs)


_forward_on_chip, _backward_on_chip = _on_chip(on_chip.forward), _on_chip(on_chip.backward)
_forward_streamed, _backward_streamed = _streamed(streamed.forward), _streamed(streamed.backward)


def padded(cells: int) -> int:
    """The cells of a tile that holds a whole head."""
    return max(16, 1 << (cells - 1).bit_length())


def fits_on_chip(cells: int, dtype: torch.dtype, shared_memory: int) -> bool:
    """Whether the recurrent weights of a head fit, given the bytes a program can have."""
    return 4 * padded(cells) ** 2 * dtype.itemsize + BESIDE_WEIGHTS <= shared_memory


def _shared_memory(device: torch.device) -> int:
    if device.type != "cuda":  # interpreted
        return BESIDE_WEIGHTS + 4 * 16**2 * 4
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


def forward(
    x: Tensor, r: Tensor, h0: Tensor, c0: Tensor, n0: Tensor, m0: Tensor,
    mask: Tensor | None, reset: Tensor | None, forget_gate: str, keep: bool,
    outputs: tuple[Tensor, ...],
) -> None:  # fmt: skip
    """Fill the outputs of the forward op."""
    batch, time, heads, _, cells = x.shape
    x = x if x.stride(-1) == 1 else x.contiguous()
    *others, gates, pairs = outputs
    kept = (gates, pairs) if keep else (None, None)
    kernel, tile = _choose(_forward_on_chip, _forward_streamed, cells, x)
    kernel[heads, triton.cdiv(batch, ROWS)](
        x, *_contiguous(r.to(x.dtype), h0.to(x.dtype), c0, n0, m0, mask, reset), *others, *kept,
        batch, time, heads, cells, *x.stride()[:-1],
        EXP_FORGET=forget_gate == "exp", ROWS=ROWS, **tile,
    )  # fmt: skip


def backward(
    r: Tensor, h0: Tensor, h: Tensor, gates: Tensor, cells: Tensor,
    mask: Tensor | None, reset: Tensor | None, gates_first: bool,
    dh: Tensor, dh_last: Tensor, dc_last: Tensor, dn_last: Tensor, dm_last: Tensor,
    gradients: tuple[Tensor, ...],
) -> None:  # fmt: skip
    """Fill the gradients of the backward op."""
    batch, time, heads, size = h.shape
    dx, d_r, *d_state = gradients
    d_outputs = _contiguous(dh, dh_last, dc_last, dn_last, dm_last)
    kernel, tile = _choose(_backward_on_chip, _backward_streamed, size, h)
    kernel[heads, triton.cdiv(batch, ROWS)](
        *_contiguous(r.to(h.dtype), gates, cells, mask, reset), *d_outputs, dx, *d_state,
        batch, time, heads, size, *dx.stride()[:-1], ROWS=ROWS, **tile,
    )  # fmt: skip
    before = torch.cat((h0[:, None].to(h.dtype), h[:, :-1]), 1)  # the h each step started from
    if reset is not None:
        before = before.masked_fill(reset[..., None, None], 0.0)
    d_r.copy_(torch.einsum("bthv,bthgw->hvgw", before, dx))


def _choose(whole, tiled, cells: int, like: Tensor):
    if fits_on_chip(cells, like.dtype, _shared_memory(like.device)):
        return whole, {"CELLS": padded(cells)}
    return tiled, {}


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]
