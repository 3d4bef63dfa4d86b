"""Block-diagonal linear maps into one tensor: what they mean, what is accepted, who runs them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from exlstm.ops.backend import choose
from exlstm.ops.block_linear_reference import Order
from exlstm.ops.checks import check_choice


def block_linear(
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    bias: Tensor | None = None,
    *,
    order: Order,
    backend: str | None = None,
) -> Tensor:
    r"""Map inputs by block-diagonal matrices and write all results into one tensor.

    For part p, block n and output channel o:

    $$ y^{(p)}_{n,o} = \sum_i W^{(p)}_{n,o,i}\, x^{(p)}_{n,i} + b^{(p)}_{n,o} $$

    Args:
        inputs: One for each part, (B, T, N * I), the channels of a block side by side. One tensor
            may serve several parts. I may differ from part to part.
        weights: One for each part, (N, O, I). O may differ from part to part.
        bias: Added to the output, of its shape without B and T.
        order: `"parts"`: the output is (B, T, N * O + N * O + ...), part after part.
            `"blocks"`: it is (B, T, N, O + O + ...), in each block part after part.
        backend: A name from `backends("block_linear")` runs that one or raises. `None` takes the
            fastest that can run the call.

    Returns:
        The output. Its dtype, also under autocast, is that of `einsum` and `cat`, plus the bias.

    Raises:
        ValueError: Shapes or options are not as above; the message names the value.
        BackendError: `backend` was named and cannot run these inputs; the message says why.

    Example:
        >>> import torch
        >>> x, w = torch.randn(2, 10, 32), torch.randn(4, 16, 8)
        >>> block_linear([x, x], [w, w], order="parts").shape
        torch.Size([2, 10, 128])
        >>> block_linear([x, x], [w, w], torch.zeros(4, 32), order="blocks").shape
        torch.Size([2, 10, 4, 32])
    """
    check_choice("order", order, ("parts", "blocks"))
    _check_parts(inputs, weights)
    blocks, outs = weights[0].shape[0], sum(w.shape[1] for w in weights)
    shape = (blocks * outs,) if order == "parts" else (blocks, outs)
    if bias is not None and bias.shape != shape:
        raise ValueError(
            f"block_linear: bias must have shape {shape}, as the output of order {order!r}, "
            f"got {tuple(bias.shape)}"
        )
    tensors = (*inputs, *weights) if bias is None else (*inputs, *weights, bias)
    return choose("block_linear", backend, *tensors)(inputs, weights, bias, order)


def _check_parts(inputs: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    if len(inputs) != len(weights) or not inputs:
        raise ValueError(
            f"block_linear: inputs and weights must be as many, at least 1, "
            f"got {len(inputs)} and {len(weights)}"
        )
    steps, blocks = inputs[0].shape[:2], weights[0].shape[0]
    for part, (x, w) in enumerate(zip(inputs, weights, strict=True)):
        fits = x.ndim == w.ndim == 3 and x.shape[:2] == steps and w.shape[0] == blocks
        if not fits or x.shape[2] != blocks * w.shape[2]:
            raise ValueError(
                f"block_linear: inputs[{part}] and weights[{part}] must have shapes (B, T, N * I) "
                f"and (N, O, I), with B, T and N as in the others, got {tuple(x.shape)} and "
                f"{tuple(w.shape)}"
            )
        if 0 in x.shape or 0 in w.shape:
            raise ValueError(
                f"block_linear: no size may be 0, inputs[{part}] and weights[{part}] have shapes "
                f"{tuple(x.shape)} and {tuple(w.shape)}"
            )
