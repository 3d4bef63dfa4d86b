"""Tensors that are read from files one at a time.

A model is a mapping from names to `LazyTensor`s. Nothing is read before `read()`, so that what a
conversion holds in memory is about its largest tensor.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read when it is needed, as float32: narrower numbers become it exactly."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


Tensors = Mapping[str, LazyTensor]


def unread(shapes: Mapping[str, Sequence[int]]) -> Tensors:
    """Tensors of which there is the shape only."""

    def nothing() -> Tensor:
        raise AssertionError("a tensor without values was read")

    return {name: LazyTensor(tuple(shape), nothing) for name, shape in shapes.items()}


def check_tensors(where: Path, got: Tensors, want: Tensors) -> None:
    """Check names and shapes before anything is read.

    Raises:
        ValueError: A tensor is missing, has no place, or has another shape; the message names it.
    """
    for names, what in (
        (want.keys() - got.keys(), "is missing"),
        (got.keys() - want.keys(), "has no place in this kind of model"),
    ):
        if names:
            others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ValueError(f"{where}: {min(names)} {what}{others}")
    for name, tensor in want.items():
        if got[name].shape != tensor.shape:
            raise ValueError(
                f"{where}: {name} has shape {got[name].shape}, its place has {tensor.shape}"
            )


def open_tensors(files: Sequence[Path]) -> dict[str, LazyTensor]:
    """The tensors in safetensors or torch files, by the end of their names, unread.

    Raises:
        ValueError: A file is missing, damaged, needs more than tensors to be unpickled, or a name
            is in two files; the message names the file.
    """
    found: dict[str, LazyTensor] = {}
    for path in files:
        if not path.is_file():
            raise ValueError(f"there is no {path}")
        tensors = _open_safetensors(path) if path.suffix == ".safetensors" else _open_torch(path)
        if twice := sorted(found.keys() & tensors.keys()):
            raise ValueError(f"{path}: {twice[0]} is in another file too")
        found |= tensors
    return found


def _open_safetensors(path: Path) -> dict[str, LazyTensor]:
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            kinds = {
                name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    for name, (dtype, _) in kinds.items():
        _check_dtype(path, name, _DTYPES.get(dtype), dtype)

    def reader(name: str) -> Callable[[], Tensor]:
        def read() -> Tensor:
            # Opened each time: a file that stays mapped stays in memory as far as it was read.
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(name).float()

        return read

    return {name: LazyTensor(shape, reader(name)) for name, (_, shape) in kinds.items()}


def _open_torch(path: Path) -> dict[str, LazyTensor]:
    """Tensors and plain containers only: `weights_only` runs nothing that the file brings."""
    try:
        # The older of torch's two file formats cannot be mapped into memory.
        mapped = zipfile.is_zipfile(path)
        with warnings.catch_warnings(action="ignore"):
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # on a damaged file an unpickler may raise anything
        raise ValueError(
            f"{path} is not opened: it is damaged, or a pickle of more than tensors, which could "
            "run code; save its state_dict() as safetensors"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(x, Tensor) and x.layout == torch.strided
        for name, x in state.items()
    ):
        raise ValueError(f"{path} is no state dict: it must hold tensors under their names only")
    for name, tensor in state.items():
        _check_dtype(path, name, tensor.dtype, str(tensor.dtype))

    def reader(tensor: Tensor) -> Callable[[], Tensor]:
        return lambda: tensor.detach().float()

    return {name: LazyTensor(tuple(tensor.shape), reader(tensor)) for name, tensor in state.items()}


def _check_dtype(path: Path, name: str, dtype: torch.dtype | None, called: str) -> None:
    if dtype not in _DTYPES.values():
        raise ValueError(f"{path}: {name} is {called}; weights are float32, bfloat16 or float16")


def num_bytes(tensors: Iterable[LazyTensor]) -> int:
    """What tensors take in a file."""
    return sum(4 * torch.Size(tensor.shape).numel() for tensor in tensors)
