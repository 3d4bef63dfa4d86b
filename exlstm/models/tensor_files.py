"""Tensors in safetensors files, one or several with an index: mapped, or a tensor at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000
"""How large a file may be before the tensors are cut into several: what the Hub's models have."""

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16",
    torch.int8: "I8", torch.uint8: "U8",
}  # fmt: skip
# Where the numbers begin: a row of a mapped matrix then begins with a vector and a cache line.
_ALIGNMENT = 64


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, not read yet.

    Attributes:
        file: The safetensors file.
        name: What it is called there.
        shape: Its shape.
        dtype: Its dtype.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """What it takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> Tensor:
        """The tensor, mapped from the file: its pages are those of the file while it lives."""
        with _open(self.file) as file:
            return file.get_tensor(self.name)


def find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of `model.safetensors`, or of the files of `model.safetensors.index.json`.

    Raises:
        ValueError: There is neither or both, a file is missing, damaged or of no index, or a tensor
            is not where the index says; the message names the file and the tensor.
    """
    if not (folder / INDEX).is_file():
        if not (folder / WEIGHTS).is_file():
            raise ValueError(f"{folder} is no exlstm model: it has neither {WEIGHTS} nor {INDEX}")
        return stored_tensors(folder / WEIGHTS)
    if (folder / WEIGHTS).exists():
        raise ValueError(f"{folder} has {WEIGHTS} and {INDEX}: remove the one that was left over")
    places = read_index(folder / INDEX)
    found: dict[str, StoredTensor] = {}
    for name in sorted(set(places.values())):
        file = folder / name
        if not file.is_file():
            first = min(key for key, place in places.items() if place == name)
            raise ValueError(f"there is no {file}, where {INDEX} has {first}")
        for key, tensor in stored_tensors(file).items():
            if places.get(key) != name:
                raise ValueError(f"{file} has {key}, which {INDEX} does not place there")
            found[key] = tensor
    if missing := sorted(places.keys() - found.keys()):
        raise ValueError(f"{folder / places[missing[0]]} has no {missing[0]}, as {INDEX} says")
    return found


def map_tensors(stored: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    """All of them, each file mapped once: memory is taken for what is used, as it is used."""
    tensors: dict[str, Tensor] = {}
    for path in dict.fromkeys(tensor.file for tensor in stored.values()):
        with _open(path) as file:
            names = [name for name, tensor in stored.items() if tensor.file == path]
            tensors |= {name: file.get_tensor(name) for name in names}
    return tensors


def write_tensors(
    folder: Path,
    tensors: Mapping[str, Tensor],
    pieces: Iterable[tuple[str, Tensor]],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write tensors that come in pieces, so that all of them are never in memory.

    Args:
        folder: Gets `model.safetensors`, or several files and their index.
        tensors: Name to shape and dtype; these may be on the meta device.
        pieces: Names with values; those of one name, one after the other, are all its numbers.
        shard_bytes: No file is larger, unless a tensor is.
    """
    shards = _shards(tensors, shard_bytes)
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    names = [WEIGHTS] if len(shards) == 1 else names
    with ExitStack() as stack:
        places, weight_map = {}, {}
        for name, shard in zip(names, shards, strict=True):
            # Not over a file that a model may be mapped from, perhaps the one that is written.
            (folder / name).unlink(missing_ok=True)
            file = stack.enter_context((folder / name).open("xb"))
            header, starts = _header(shard)
            file.write(header)
            file.truncate(len(header) + sum(tensor.nbytes for tensor in shard.values()))
            places |= {key: (file, len(header) + start) for key, start in starts.items()}
            weight_map |= dict.fromkeys(shard, name)
        left = {name: tensor.nbytes for name, tensor in tensors.items()}
        for name, piece in pieces:
            file, start = places[name]
            assert piece.dtype == tensors[name].dtype
            file.seek(start + tensors[name].nbytes - left[name])
            file.write(_bytes(piece))
            left[name] -= piece.nbytes
        assert not any(left.values()), "pieces must be all of every tensor"
    if len(shards) > 1:
        write_index(folder, weight_map, sum(tensor.nbytes for tensor in tensors.values()))


def write_file(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one safetensors file."""
    header, starts = _header(tensors)
    with path.open("wb") as file:
        file.write(header)
        for name in starts:
            file.write(_bytes(tensors[name]))


def write_index(folder: Path, files: Mapping[str, str], nbytes: int) -> None:
    """Write the index of a model in several files: which has each tensor, and the bytes of all."""
    index = {"metadata": {"total_size": nbytes}, "weight_map": dict(files)}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, by name.

    Raises:
        ValueError: It is damaged or no such file; the message names it.
    """
    with _open(path) as file:
        # An open file is no mapping: it has keys, and is not iterated over.
        mapped = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return {
        name: StoredTensor(path, name, tuple(tensor.shape), tensor.dtype)
        for name, tensor in mapped.items()
    }


def read_index(path: Path) -> dict[str, str]:
    """The file of each tensor, as an index has it.

    Raises:
        ValueError: It is no index; the message names it.
    """
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = {key: Path(name).name for key, name in places.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no index of shards: it needs a weight_map") from error
    if not names:
        raise ValueError(f"{path} is no index of shards: its weight_map is empty")
    return names


def _shards(tensors: Mapping[str, Tensor], largest: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        size += tensor.nbytes
        if size > largest and shards[-1]:
            shards.append({})
            size = tensor.nbytes
        shards[-1][name] = tensor
    return shards


def _header(tensors: Mapping[str, Tensor]) -> tuple[bytes, dict[str, int]]:
    """A file up to its numbers, and where each tensor begins after it.

    The format: the length of a JSON text, the text, the numbers. Wider dtypes come first, so that
    every number lies at a multiple of its size.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    starts, end = {}, 0
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].itemsize):
        starts[name], end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape),
            "data_offsets": [starts[name], end],
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, starts
