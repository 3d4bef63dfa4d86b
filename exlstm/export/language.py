"""A language model as a folder: its two graphs, its tokenizer, and what a client needs to know."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import exlstm
from exlstm.data.atomic import write_text
from exlstm.data.tokenizer import FileTokenizer, Tokenizer
from exlstm.export.onnx import to_onnx
from exlstm.models import XLSTMLanguageModel

DESCRIPTION = "export.json"


def export_language_model(
    model: XLSTMLanguageModel, tokenizer: Tokenizer, folder: str | os.PathLike[str]
) -> dict[str, Any]:
    """Write a language model and its tokenizer for onnxruntime.

    `sequence.onnx` reads tokens of any number, `step.onnx` one; see `to_onnx` for both, whose
    memories are the same. `export.json`, which is written last, has the vocabulary, the states'
    names and shapes, and each file's size and error.

    Args:
        model: The model.
        tokenizer: What it was trained with.
        folder: Where to; nothing but hidden files may be in it.

    Returns:
        What is in `export.json`.

    Raises:
        ValueError: The folder is not empty, or as `to_onnx`.
        FloatingPointError: As `to_onnx`.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out: {folder} is a file; give the name of a folder")
    if folder.exists() and _visible(folder):
        raise ValueError(f"out: {folder} is not empty; give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    description: dict[str, Any] = {
        "exlstm_version": exlstm.__version__,
        "vocab_size": model.config.vocab_size,
        "tokenizer": "tokenizer.json" if isinstance(tokenizer, FileTokenizer) else "bytes",
        "end_of_document": tokenizer.end_of_document,
    }
    try:
        graphs = {}
        for name in ("sequence", "step"):
            path = folder / f"{name}.onnx"
            done = to_onnx(model, path, step=name == "step")
            graphs[path.name] = {
                "bytes": path.stat().st_size, "error": done.error, "torch_error": done.torch_error
            }  # fmt: skip
            states = {name: shape for name, shape in done.inputs.items() if name != "tokens"}
            description |= {"states": states, "graphs": graphs}
        tokenizer.save(folder)
    except BaseException:
        for path in _visible(folder):  # it was empty: what is in it is half an export
            path.unlink()
        raise
    write_text(folder / DESCRIPTION, json.dumps(description, indent=2) + "\n")
    return description


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]
