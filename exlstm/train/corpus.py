"""The data of a run: text, tokenised into the folder of the run, or folders prepared before."""

from __future__ import annotations

from pathlib import Path

from exlstm.data import (
    Lanes,
    Mixture,
    Split,
    TokenFile,
    Tokenizer,
    Windows,
    corpus_digest,
    is_prepared,
    join_token_files,
    load_split,
    load_tokenizer,
    open_token_file,
    open_tokenizer,
    whole_weights,
)
from exlstm.data.token_file import read_manifest
from exlstm.train.arguments import TrainArguments


def prepared_folders(data: str | None) -> dict[Path, int]:
    """Return the folders of token files `data` names with their weights; none if it names text.

    Several are written as `web=0.7,code=0.3`.

    Raises:
        ValueError: if one is not complete, or not prepared at all among others that are.
    """
    if is_prepared(data):
        return {Path(str(data)): 1}
    if data is None or "=" not in data or Path(data).exists():
        return {}
    names, weights = zip(*(part.rpartition("=")[::2] for part in data.split(",")), strict=True)
    for name in names:
        if not is_prepared(name):
            raise ValueError(f"data: {name!r} of {data} is no folder made by `exlstm prepare`")
    return dict(zip(map(Path, names), whole_weights(weights), strict=True))


def run_tokenizer(arguments: TrainArguments) -> Tokenizer:
    """Return the tokenizer of a run: the one asked for, of the prepared data, or bytes.

    Raises:
        ValueError: if it is not the one the data was prepared with.
    """
    asked = None if arguments.tokenizer is None else load_tokenizer(arguments.tokenizer)
    tokenizer = asked
    for folder in (*prepared_folders(arguments.data), *prepared_folders(arguments.val_data)):
        own = open_tokenizer(folder)
        tokenizer = tokenizer or own
        if own.fingerprint != tokenizer.fingerprint:
            other = "--tokenizer" if asked else "the rest of the data"
            raise ValueError(f"tokenizer: {folder} was prepared with another than {other}")
    return tokenizer or load_tokenizer("bytes")


def read_corpus(arguments: TrainArguments) -> Split | None:
    """Return the documents of a run on text, or None if its data was prepared.

    Raises:
        ValueError: as `load_split`, or if one of `data` and `val_data` was prepared.
    """
    prepared = bool(prepared_folders(arguments.data))
    if arguments.val_data is not None and prepared != bool(prepared_folders(arguments.val_data)):
        raise ValueError("val_data: prepare it with `exlstm prepare` like the data, or neither")
    return None if prepared else load_split(arguments.data, arguments.val_data)


def corpus_digests(
    arguments: TrainArguments, tokenizer: Tokenizer, split: Split | None
) -> tuple[str, str]:
    """Return what changes with the training data and the validation data of a run."""
    if split is not None:
        return corpus_digest(split.train, tokenizer), corpus_digest(split.validation, tokenizer)
    windows, validation = open_corpus(arguments)
    if isinstance(windows, Windows):
        return windows.file.digest, validation.digest
    parts = zip(windows.weights, windows.parts, strict=True)
    return " ".join(f"{weight} {part.file.digest}" for weight, part in parts), validation.digest


def open_corpus(arguments: TrainArguments) -> tuple[Windows | Mixture, TokenFile]:
    """Open the training data and the validation data of a run.

    Raises:
        ValueError: if a file is not what was written, there is too little of it, or a mixture is
            to be read in lanes.
    """
    folders = prepared_folders(arguments.data) or {arguments.out / "data": 1}
    files = [open_token_file(folder, "train") for folder in folders]
    context, seed = arguments.context, arguments.seed
    if arguments.carry_state and len(files) > 1:
        raise ValueError("carry_state: not possible with a mixture; prepare one folder of its data")
    if arguments.carry_state:
        windows = Lanes(files[0], context, seed, lanes=arguments.batch_size)
    elif len(files) > 1:
        parts = tuple(Windows(file, context, seed) for file in files)
        windows = Mixture(parts, tuple(folders.values()), seed)
    else:
        windows = Windows(files[0], context, seed)
    apart = prepared_folders(arguments.val_data)
    splits = {folder: _validation_split(folder, given=bool(apart)) for folder in apart or folders}
    return windows, join_token_files([open_token_file(*part) for part in splits.items()])


def _validation_split(folder: Path, *, given: bool) -> str:
    """A folder given for validation may have been prepared whole, with a `--val-share` of 0."""
    has_one = "val" in read_manifest(folder)["splits"]
    if not has_one and not given:
        raise ValueError(
            f"data: no document of {folder} is for validation; give another folder as --val-data"
        )
    return "val" if has_one else "train"
