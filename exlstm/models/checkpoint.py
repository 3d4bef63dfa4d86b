"""A model on disk: `config.json` and `model.safetensors` in one folder. Nothing is unpickled."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from exlstm.models.config import XLSTMConfig
from exlstm.models.language import XLSTMLanguageModel
from exlstm.models.quantization import InferenceLinear

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def save_model(folder: str | os.PathLike[str], model: XLSTMLanguageModel) -> None:
    """Write a model into a folder that exists.

    Raises:
        ValueError: The model is quantised. What is saved is what can be trained.

    Example:
        >>> import tempfile
        >>> model = XLSTMLanguageModel(XLSTMConfig(vocab_size=257, d_model=32, pattern="ms"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(folder, model)
        ...     load_model(folder).config == model.config
        True
    """
    if any(isinstance(layer, InferenceLinear) for layer in model.modules()):
        raise ValueError("the model is quantised: save it before, and quantise it after loading")
    config = {"model_type": "exlstm", **model.config.to_dict()}
    Path(folder, CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, Path(folder, WEIGHTS), metadata={"format": "pt"})


def load_model(folder: str | os.PathLike[str]) -> XLSTMLanguageModel:
    """Read a model that `save_model` wrote, in evaluation mode.

    Raises:
        ValueError: The folder is no such model: a file is missing, truncated or of another model.
            The message names the file.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is no exlstm model: it has no {name}")
    config = read_config(folder / CONFIG)
    try:
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{folder / WEIGHTS} is damaged or no safetensors file: {error}"
        ) from error

    with torch.device("meta"):
        model = XLSTMLanguageModel(config)
    want = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(want.keys() | got.keys()):
        if want.get(name) != got.get(name):
            raise ValueError(
                f"{folder / WEIGHTS} does not fit {CONFIG}: {name} has shape "
                f"{got.get(name, 'missing')}, the model needs {want.get(name, 'no such tensor')}"
            )
    model.load_state_dict(weights, assign=True)
    return model.eval()


def read_config(path: Path) -> XLSTMConfig:
    """Read the configuration that `save_model` wrote.

    Raises:
        ValueError: The file is no JSON, or not that of an exlstm model; the message names it.
    """
    try:
        fields = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(fields, dict) or fields.pop("model_type", None) != "exlstm":
        raise ValueError(
            f"{path} is of another kind of model: model_type must be 'exlstm'; "
            "`exlstm convert` makes one of the published formats"
        )
    try:
        return XLSTMConfig.from_dict(fields)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
