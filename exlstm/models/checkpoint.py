"""A model on disk: `config.json` and safetensors files in one folder. Nothing is unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from exlstm.models.config import XLSTMConfig
from exlstm.models.language import XLSTMLanguageModel
from exlstm.models.quantization import InferenceLinear, Weights, matrices, quantize, weights_of
from exlstm.models.tensor_files import (
    SHARD_BYTES,
    StoredTensor,
    find_tensors,
    map_tensors,
    write_tensors,
)
from exlstm.ops.checks import check_choice

CONFIG = "config.json"

_PIECE = 1 << 24  # numbers of a matrix that are in memory at once


def save_model(folder: str | os.PathLike[str], model: XLSTMLanguageModel) -> None:
    """Write a model into a folder that exists; a quantised one as it is stored in memory.

    Example:
        >>> import tempfile
        >>> model = XLSTMLanguageModel(XLSTMConfig(vocab_size=257, d_model=32, pattern="ms"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(folder, model)
        ...     load_model(folder).config == model.config
        True
    """
    write_config(Path(folder), model.config, weights_of(model))
    tensors = model.state_dict()
    write_tensors(Path(folder), tensors, tensors.items())


def load_model(folder: str | os.PathLike[str]) -> XLSTMLanguageModel:
    """Read a model that `save_model` or `quantize_checkpoint` wrote, in evaluation mode.

    Its weights are mapped from the files: memory is taken for those that are used, once for all
    processes, and the system may take it back. A quantised model is for inference only, as
    `quantize` makes it.

    Raises:
        ValueError: The folder is no such model: a file is missing, truncated or of another model.
            The message names the file.
    """
    folder = Path(folder)
    config, weights = _read_config(folder)
    stored = find_tensors(folder)
    model = _empty(config, weights)
    _check_fit(folder, stored, model.state_dict(), exact=weights is not None)
    model.load_state_dict(map_tensors(stored), assign=True)
    return model.eval()


def quantize_checkpoint(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    weights: Weights,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int], object] = lambda _: None,
) -> None:
    """Write what `save_model` would of `quantize(load_model(source).float(), weights)`.

    It goes tensor by tensor: memory holds little more than one matrix of the source.

    Args:
        source: A model that is not quantised; float32, bfloat16 or float16.
        folder: Exists; gets the configuration and the weights.
        weights: See `quantize`.
        shard_bytes: A model that is larger goes into several files with an index.
        progress: Told how many bytes of the source have been read since it was told last.

    Raises:
        ValueError: `source` is no model or quantised already, or there is no such kind of weights.

    Example:
        >>> import tempfile
        >>> model = XLSTMLanguageModel(XLSTMConfig(vocab_size=257, d_model=32, pattern="M"))
        >>> with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
        ...     save_model(a, model)
        ...     quantize_checkpoint(a, b, "int8")
        ...     load_model(b).head
        InferenceLinear(in_features=32, out_features=257, weights=int8)
    """
    source = Path(source)
    check_choice("weights", weights, get_args(Weights))
    config = read_config(source / CONFIG)
    stored = find_tensors(source)
    _check_fit(source, stored, _empty(config, None).state_dict(), exact=False)
    model = _empty(config, weights)

    def pieces() -> Iterator[tuple[str, Tensor]]:
        for layer in matrices(model):
            shared = layer == "head" and config.tie_embeddings
            name = "embedding.weight" if shared else f"{layer}.weight"
            for rows in _rows(stored[name].read()):
                part = InferenceLinear(rows, weights).state_dict()
                yield from ((f"{layer}.{key}", values) for key, values in part.items())
                progress(0 if shared else rows.nbytes)
        for name, _ in model.named_parameters():
            for rows in _rows(stored[name].read()):
                yield name, rows.float()
                progress(rows.nbytes)

    write_tensors(Path(folder), model.state_dict(), pieces(), shard_bytes)
    write_config(Path(folder), config, weights)


def read_config(path: Path) -> XLSTMConfig:
    """Read the configuration that `save_model` wrote of a model that is not quantised.

    Raises:
        ValueError: The file is no JSON, not that of an exlstm model, or that of a quantised one;
            the message names it.
    """
    config, weights = _read_config(path.parent)
    if weights is not None:
        raise ValueError(f"{path} is of a model quantised to {weights}: start from what it was")
    return config


def _empty(config: XLSTMConfig, weights: Weights | None) -> XLSTMLanguageModel:
    """A model of that kind with no memory behind it."""
    with torch.device("meta"):
        model = XLSTMLanguageModel(config)
        return model if weights is None else quantize(model, weights)


def _rows(tensor: Tensor) -> tuple[Tensor, ...]:
    return tensor.split(max(1, _PIECE // max(1, tensor[0].numel())))


def _check_fit(
    folder: Path, got: Mapping[str, StoredTensor], want: Mapping[str, Tensor], *, exact: bool
) -> None:
    """Check names, shapes and dtypes; any floating-point dtype will do where not `exact`."""
    for name in sorted(want.keys() | got.keys()):
        have, need = got.get(name), want.get(name)
        where = folder if have is None else have.file
        shape = "missing" if have is None else have.shape
        needed = "no such tensor" if need is None else tuple(need.shape)
        if have is None or need is None or shape != needed:
            raise ValueError(
                f"{where} does not fit {CONFIG}: {name} has shape {shape}, the model needs {needed}"
            )
        fits = have.dtype == need.dtype if exact else have.dtype.is_floating_point
        if not fits:
            raise ValueError(
                f"{where} does not fit {CONFIG}: {name} is {have.dtype}, the model needs "
                f"{need.dtype}"
            )


def config_fields(config: XLSTMConfig, weights: Weights | None = None) -> dict[str, Any]:
    """What stands in `config.json` for a model whose matrices are stored as `weights`."""
    fields = {"model_type": "exlstm", **config.to_dict()}
    if weights is not None:
        # Readers that know of no quantised models refuse a field they do not know.
        fields["weights"] = weights
    return fields


def write_config(folder: Path, config: XLSTMConfig, weights: Weights | None = None) -> None:
    """Write the `config.json` of a model whose matrices are stored as `weights`."""
    text = json.dumps(config_fields(config, weights), indent=2) + "\n"
    (folder / CONFIG).write_text(text)


def _read_config(folder: Path) -> tuple[XLSTMConfig, Weights | None]:
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} is no exlstm model: it has no {CONFIG}")
    try:
        fields = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(fields, dict) or fields.pop("model_type", None) != "exlstm":
        raise ValueError(f"{path} is of another kind of model: model_type must be 'exlstm'")
    try:
        weights = fields.pop("weights", None)
        if weights is not None:
            check_choice("weights", weights, get_args(Weights))
        return XLSTMConfig.from_dict(fields), weights
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
