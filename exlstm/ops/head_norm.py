"""The public head norm: what it means, what it accepts, which implementation runs."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from exlstm.ops.backend import choose
from exlstm.ops.checks import check_choice, check_shapes
from exlstm.shapes import Float


def head_norm(
    h: Float[Tensor, "B T H V"],
    weight: Float[Tensor, "H*V"],
    *,
    eps: float,
    gate: Float[Tensor, "B T H*V"] | None = None,
    activation: Literal["silu", "sigmoid"] = "silu",
    skip: Float[Tensor, "H*V"] | None = None,
    skipped: Float[Tensor, "B T H*V"] | None = None,
    backend: str | None = None,
) -> Float[Tensor, "B T H*V"]:
    r"""Normalise each head's output by itself, put the heads side by side, add a skip, and gate.

    $$
    y = (\mathrm{norm}(h) \odot \mathrm{weight} + \mathrm{skip} \odot \mathrm{skipped}) \odot
    \phi(\mathrm{gate}), \qquad
    \mathrm{norm}(h) = \frac{h - \mathrm{mean}(h)}{\sqrt{\mathrm{var}(h) + \epsilon}}
    $$

    with mean and (biased) variance over the V values of a head at a step.

    Args:
        h: Outputs of the heads.
        weight: Scale of each channel.
        eps: Added to the variance.
        gate: Pre-activation of the gate; it may be a slice of a wider tensor. `None` is no gate.
        activation: $\phi$, `"silu"` or `"sigmoid"`.
        skip: Weight of each channel of `skipped`; both or neither are given.
        skipped: What is added before the gate.
        backend: A name from `backends("head_norm")` runs that one or raises. `None` takes the
            fastest that can run the call.

    Returns:
        The heads side by side. No input is written to.

    Raises:
        ValueError: Shapes or options are not as above; the message names the value.
        BackendError: `backend` was named and cannot run these inputs; the message says why.

    Numerics:
        Any finite gate is safe, values and gradients, and so is an offset of h. Computed in the
        dtype of the inputs; of mixed ones and under autocast, as PyTorch's own operations do.

    Example:
        >>> import torch
        >>> h, gate = torch.randn(2, 10, 4, 8), torch.randn(2, 10, 32)
        >>> head_norm(h, torch.ones(32), eps=1e-5, gate=gate).shape
        torch.Size([2, 10, 32])
    """
    # Asked each time, `check_shapes` would be a tenth of a decoding step's head norm.
    if h.ndim != 4 or h.numel() == 0 or not h.is_floating_point():
        check_shapes("head_norm", h=(h, "B T H V"))
    batch, time, heads, value = h.shape
    channels = (heads * value,)
    steps = (batch, time, heads * value)
    tensors = [h]
    for name, tensor, shape in (
        ("weight", weight, channels),
        ("gate", gate, steps),
        ("skip", skip, channels),
        ("skipped", skipped, steps),
    ):
        if tensor is not None:
            if tensor.shape != shape:
                got = tuple(tensor.shape)
                raise ValueError(f"head_norm: {name} must have shape {shape}, got {got}")
            tensors.append(tensor)
    if (skip is None) != (skipped is None):
        missing = "skip" if skip is None else "skipped"
        raise ValueError(f"head_norm: {missing} is missing: give skip and skipped, or neither")
    check_choice("activation", activation, ("silu", "sigmoid"))
    run = choose("head_norm", backend, *tensors)
    return run(h, weight, eps, gate, activation, skip, skipped)
