"""The dense linear map: by whom it is computed."""

from __future__ import annotations

from torch import Tensor

from exlstm.ops.backend import choose
from exlstm.shapes import Float


def linear(
    x: Float[Tensor, "*S X"],
    weight: Float[Tensor, "Y X"],
    bias: Float[Tensor, " Y"] | None = None,
    *,
    backend: str | None = None,
) -> Float[Tensor, "*S Y"]:
    r"""Apply $y = W x + b$ to the last axis, as `torch.nn.functional.linear` does.

    Args:
        x: Inputs.
        weight: W.
        bias: b, or `None` for zero.
        backend: A name from `backends("linear")` runs that one or raises. `None` takes the fastest
            that can run the call: `"onednn"` for float32 on a CPU and enough work, otherwise
            `"reference"`, PyTorch's own choice.

    Returns:
        The outputs. Gradients flow to all inputs.

    Raises:
        BackendError: `backend` was named and cannot run these inputs; the message says why.

    Example:
        >>> import torch
        >>> linear(torch.randn(2, 10, 32), torch.randn(64, 32)).shape
        torch.Size([2, 10, 64])
    """
    tensors = (x, weight) if bias is None else (x, weight, bias)
    return choose("linear", backend, *tensors)(x, weight, bias)
