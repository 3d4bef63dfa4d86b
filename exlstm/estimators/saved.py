"""A fitted estimator on disk: a folder with `estimator.json` and `model.safetensors`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from exlstm.data.atomic import new_folder

FORMAT = 1
"""Of the files; another number is refused."""


@dataclass(frozen=True)
class Saved:
    """What is on disk.

    Attributes:
        kind: The name of the estimator's class.
        parameters: What its constructor was told; JSON.
        fitted: What it learned besides tensors; JSON.
        tensors: What it learned: weights, and arrays that must come back to the bit.
    """

    kind: str
    parameters: dict[str, Any]
    fitted: dict[str, Any]
    tensors: Mapping[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix`, by the rest of their names.

        Example:
            >>> import torch
            >>> Saved("Thing", {}, {}, {"net.w": torch.ones(2), "mean": torch.ones(1)}).part("net.")
            {'w': tensor([1., 1.])}
        """
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }


def write(folder: str | os.PathLike[str], saved: Saved) -> None:
    """Write a new folder; it is there when it is complete.

    Raises:
        ValueError: There is something of that name.
        TypeError: Something in `parameters` or `fitted` is not JSON.
    """
    fields = {
        "format": FORMAT,
        "kind": saved.kind,
        "parameters": saved.parameters,
        "fitted": saved.fitted,
    }
    text = json.dumps(fields, indent=1)
    with new_folder(Path(folder)) as partial:
        (partial / "estimator.json").write_text(text)
        tensors = {name: tensor.contiguous() for name, tensor in saved.tensors.items()}
        save_file(tensors, partial / "model.safetensors")


def read(folder: str | os.PathLike[str], kind: str) -> Saved:
    """Read what `write` wrote. Nothing is unpickled.

    Raises:
        ValueError: The folder holds no estimator of this kind, or is damaged.
    """
    folder = Path(folder)
    try:
        fields = json.loads((folder / "estimator.json").read_text())
        tensors = load_file(folder / "model.safetensors")
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} holds no saved estimator: {error.filename} is missing"
        ) from None
    except (json.JSONDecodeError, SafetensorError) as error:
        raise ValueError(f"{folder} is damaged: {error}") from None
    if fields.get("format") != FORMAT or fields.get("kind") != kind:
        raise ValueError(
            f"{folder} holds {fields.get('kind')} of format {fields.get('format')}, "
            f"not {kind} of format {FORMAT}"
        )
    return Saved(kind, fields["parameters"], fields["fitted"], tensors)
