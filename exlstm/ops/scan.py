"""A loop over time that an export keeps as a loop; for the ops' implementations named "scan"."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan

Tensors = tuple[Tensor, ...]


def scan_steps(
    step: Callable[[Tensors, Tensors], tuple[Tensors, Tensor]], carry: Tensors, inputs: Tensors
) -> tuple[Tensors, Tensor]:
    """Call `carry, output = step(carry, inputs[...][t])` for each t of the inputs' first axis.

    While exporting this is torch's `scan`, which becomes the node Scan of ONNX and leaves the
    length open. Elsewhere it is Python's loop over the same steps: torch's compiles for seconds at
    its first call, and its gradients are wrong under inductor. A single step needs no loop.

    Returns:
        The last carry, and the outputs along a new first axis.
    """
    if torch.compiler.is_exporting() and inputs[0].shape[0] != 1:
        return scan(lambda *old: _fresh(*step(*old)), _copies(carry), inputs)
    outputs = []
    for t in range(inputs[0].shape[0]):
        carry, output = step(carry, tuple(x[t] for x in inputs))
        outputs.append(output)
    return carry, torch.stack(outputs)


def _fresh(carry: Tensors, output: Tensor) -> tuple[Tensors, Tensor]:
    """What the operator wants: no tensor that came in or is returned twice, strides as before."""
    return _copies(carry), output.clone()


def _copies(carry: Tensors) -> Tensors:
    return tuple(part.clone(memory_format=torch.contiguous_format) for part in carry)
