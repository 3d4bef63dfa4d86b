"""What the ops check of their inputs: each error is one line that names the value and what fits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype an op computes and keeps its states in: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def mixed_dtype(tensor: Tensor, x: Tensor) -> torch.dtype:
    """The dtype a gate or weight beside `x` must have: its own where mixed precision allows it.

    Gates and weights may stay in the compute dtype while `x` is narrower.
    """
    return tensor.dtype if tensor.dtype == compute_dtype(x) else x.dtype


def check_shapes(
    op: str,
    sizes: dict[str, int] | None = None,
    dtype: torch.dtype | None = None,
    **tensors: tuple[Tensor, str],
) -> dict[str, int]:
    """Check tensors against shapes written in letters, such as `q=(q, "B T H K")`.

    A letter has one size throughout; a number in place of a letter is that size.

    Args:
        op: Named in the message.
        sizes: Sizes already known.
        dtype: What all must have; `None` asks for one floating dtype, the first tensor's.
        **tensors: Each with its shape.

    Returns:
        The size of each letter.

    Raises:
        ValueError: A tensor is not of that shape, dtype or device.
    """
    sizes = dict(sizes or {})
    first = next(iter(tensors))
    like = tensors[first][0]
    for name, (tensor, letters) in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"{op}: {name} must be a tensor of shape ({letters}), got {type(tensor).__name__}"
            )
        dims = letters.split()
        known = dict(sizes)
        fits = tensor.ndim == len(dims) and all(
            (int(d) if d.isdigit() else known.setdefault(d, n)) == n
            for d, n in zip(dims, tensor.shape, strict=True)
        )
        if not fits:
            want = ", ".join(f"{d}={sizes[d]}" if d in sizes else d for d in dims)
            raise ValueError(f"{op}: {name} must have shape ({want}), got {tuple(tensor.shape)}")
        sizes = known
        if not tensor.is_floating_point():
            raise ValueError(f"{op}: {name} must be floating point, got {tensor.dtype}")
        if tensor.dtype != (dtype or like.dtype):
            want = dtype or f"{like.dtype} as {first}"
            raise ValueError(f"{op}: {name} must be {want}, got {tensor.dtype}")
        if tensor.device != like.device:
            raise ValueError(
                f"{op}: {name} must be on {like.device} as {first}, got {tensor.device}"
            )
    for letter, size in sizes.items():
        if size == 0:
            raise ValueError(f"{op}: size {letter} is 0, it must be at least 1")
    return sizes


def check_steps(op: str, sizes: dict[str, int], **flags: Tensor | None) -> None:
    """Check masks and resets: boolean, of shape (B, T), or `None`.

    Raises:
        ValueError: One is something else.
    """
    want = (sizes["B"], sizes["T"])
    for name, flag in flags.items():
        if flag is None:
            continue
        got = (
            f"{flag.dtype} {tuple(flag.shape)}" if isinstance(flag, Tensor) else type(flag).__name__
        )
        if not isinstance(flag, Tensor) or flag.dtype != torch.bool or tuple(flag.shape) != want:
            raise ValueError(
                f"{op}: {name} must be a bool tensor of shape (B, T) = {want}, got {got}"
            )


def check_choice(name: str, value: str, accepted: Sequence[str]) -> None:
    """Check an option that is one of a few names.

    Raises:
        ValueError: It is none of them.
    """
    if value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, accepted))}, got {value!r}")
