"""Block-diagonal linear maps by `einsum`, any dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Order = Literal["parts", "blocks"]


def block_linear_reference(
    inputs: Sequence[Tensor], weights: Sequence[Tensor], bias: Tensor | None, order: Order
) -> Tensor:
    """The maps one by one, then side by side. Under autocast as autocast has it."""
    outputs = [
        torch.einsum("btni,noi->btno", x.unflatten(-1, (w.shape[0], w.shape[2])), w)
        for x, w in zip(inputs, weights, strict=True)
    ]
    if order == "parts":
        outputs = [output.flatten(-2) for output in outputs]
    y = torch.cat(outputs, dim=-1)
    return y if bias is None else y + bias
