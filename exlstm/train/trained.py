"""What a run has made, found and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from exlstm.models import XLSTMLanguageModel, load_model, quantize
from exlstm.models.checkpoint import CONFIG
from exlstm.models.quantization import weights_of
from exlstm.train.checkpoint import checkpoints


def newest_checkpoint(folder: Path) -> Path:
    """Return the folder itself, or the newest checkpoint of the run in it.

    Raises:
        ValueError: It is neither.
    """
    if (folder / CONFIG).is_file():
        return folder
    found = checkpoints(folder) if folder.is_dir() else []
    if not found:
        raise ValueError(f"{folder} is neither a checkpoint nor a run that has one")
    return found[-1]


def open_trained(
    folder: Path, weights: Literal["float32", "bfloat16", "int8"] | None
) -> XLSTMLanguageModel:
    """Return the model in a checkpoint as it is stored, its weights not read yet.

    Raises:
        ValueError: The checkpoint is damaged, or quantised to another kind than `weights`.
    """
    model = load_model(folder)
    stored = weights_of(model)
    if stored is not None and weights not in (None, stored):
        raise ValueError(f"weights: {weights} is not possible, {folder} has {stored} weights")
    return model


def load_trained(
    folder: Path, weights: Literal["float32", "bfloat16", "int8"] | None
) -> XLSTMLanguageModel:
    """Return the model in a checkpoint, for inference, with weights of the kind asked for.

    Raises:
        ValueError: As `open_trained`.
    """
    model = open_trained(folder, weights)
    return model if weights_of(model) else quantize(model, weights or "float32")
