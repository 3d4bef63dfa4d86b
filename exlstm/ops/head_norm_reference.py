"""The head norm with its skip and gate, operation by operation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from exlstm.shapes import Float


def head_norm_reference(
    h: Float[Tensor, "B T H V"],
    weight: Float[Tensor, " X"],
    eps: float,
    gate: Float[Tensor, "B T X"] | None,
    activation: str,
    skip: Float[Tensor, " X"] | None,
    skipped: Float[Tensor, "B T X"] | None,
) -> Float[Tensor, "B T X"]:
    """The head norm in plain PyTorch: any dtype, also mixed, and under autocast as it decides."""
    y = F.layer_norm(h, h.shape[-1:], eps=eps).flatten(-2) * weight
    if skip is not None and skipped is not None:
        y = y + skip * skipped
    if gate is not None:
        y = y * (F.silu(gate) if activation == "silu" else gate.sigmoid())
    return y
