"""The verb `exlstm evaluate`: it knows where a run keeps its models and its validation text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import tyro

from exlstm.data import Tokenizer, load_tokenizer
from exlstm.data.atomic import new_folder, write_text
from exlstm.data.text import check_outside
from exlstm.evaluate.corpus import domain_of_tokens, find_domains, read_domains
from exlstm.evaluate.domains import Domain, evaluate_domains
from exlstm.evaluate.report import (
    ModelReport,
    Report,
    as_markdown,
    as_text,
    report_json,
    tables,
)
from exlstm.evaluate.samples import Beginning, pick_beginnings, sample_texts
from exlstm.train.corpus import open_corpus
from exlstm.train.run_folder import RUN_FILE, resumed_arguments
from exlstm.train.trained import load_trained, newest_checkpoint, open_trained

_MOST_ROWS = 30
"""Of a table on the terminal."""


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Loss, perplexity and bits per byte of trained models on text, by domain and by position.

    Every document is read from an empty memory to its end.
    """

    models: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Checkpoints, or runs, for their newest checkpoints; several are compared."""
    data: str | None = None
    """A folder, in which each sub-folder and each file is a domain, a text file, or a quoted glob;
    without it, the run's validation documents. Lines of .jsonl and rows of .parquet are
    documents."""
    out: Path | None = None
    """A new folder for a report: results.json, and a page with tables and pictures."""
    context: tuple[int, ...] = ()
    """Also measure with the memory emptied every so many tokens, for each number given."""
    position_width: int | None = None
    """Tokens of a bucket of positions; without it, each bucket is twice as wide as the one
    before."""
    samples: int = 0
    """Also let the models continue the beginnings of so many documents."""
    seed: int = 0
    """Of the samples."""
    text_field: str = "text"
    """The field of JSON lines and Parquet files that holds the text."""
    batch_size: int = 16
    """Documents read side by side; it does not change the result."""
    weights: Literal["float32", "bfloat16", "int8"] | None = None
    """How the large matrices are stored, to measure what their rounding costs. Without it, float32,
    or as a quantised checkpoint has them."""
    json: bool = False
    """Print the results as JSON."""
    threads: int | None = None
    """CPU threads; without it, what torch takes."""


def evaluate(arguments: EvaluateArguments) -> None:
    """Measure, print the tables or the JSON, and write the report."""
    _check(arguments)
    folders = [newest_checkpoint(model) for model in arguments.models]
    with ExitStack() as stack:
        out = None
        if arguments.out is not None:
            check_outside(arguments.out, arguments.data)
            out = stack.enter_context(new_folder(arguments.out))
        files = Path(stack.enter_context(TemporaryDirectory(prefix="exlstm-")))
        report = _measure(arguments, folders, _Text(arguments, files))
        numbers = report_json(report)
        if out is not None:
            _write(out, report, numbers)
    if arguments.json:
        print(json.dumps(numbers if len(folders) > 1 else numbers["models"][0], indent=2))
        return
    result = report.models[0].whole.micro
    print(
        f"{report.models[0].checkpoint if len(folders) == 1 else f'{len(folders)} models'}: "
        f"{result.num_documents:,} documents, {result.num_bytes:,} bytes, "
        f"{result.num_tokens:,} tokens"
    )
    if report.metric == "bits_per_byte":
        print("the tokenizers differ: compare bits per byte, not losses and perplexities")
    for table in tables(report):
        print(f"\n{as_text(table, _MOST_ROWS)}")
    if arguments.out is not None:
        print(f"\n{arguments.out}: results.json, report.md")


def _check(arguments: EvaluateArguments) -> None:
    if not arguments.models:
        raise ValueError("models: give at least one checkpoint or run")
    if len(set(arguments.models)) < len(arguments.models):
        raise ValueError(f"models: one is given twice in {' '.join(map(str, arguments.models))}")
    if len(arguments.models) > 1 and arguments.data is None:
        raise ValueError("data: give the text that the models are compared on")
    if arguments.samples < 0:
        raise ValueError(f"samples: {arguments.samples} is not possible, it must be at least 0")
    for context in arguments.context:
        if context < 1:
            raise ValueError(f"context must be at least 1 or None, got {context}")


class _Text:
    """The documents for each tokenizer, tokenised once."""

    def __init__(self, arguments: EvaluateArguments, files: Path) -> None:
        self._arguments, self._files = arguments, files
        self._known: dict[str, list[Domain]] = {}
        self._beginnings: tuple[Beginning, ...] = ()

    def domains(self, folder: Path, tokenizer: Tokenizer) -> list[Domain]:
        name = tokenizer.fingerprint
        if name not in self._known:
            self._known[name] = self._read(folder, tokenizer)
        return self._known[name]

    def beginnings(self, domains: Sequence[Domain], tokenizer: Tokenizer) -> tuple[Beginning, ...]:
        """The same texts for all models."""
        if self._arguments.samples and not self._beginnings:
            self._beginnings = pick_beginnings(domains, tokenizer, self._arguments.samples)
        return self._beginnings

    def _read(self, folder: Path, tokenizer: Tokenizer) -> list[Domain]:
        data = self._arguments.data
        if data is None:
            if not (folder.parent / RUN_FILE).is_file():
                raise ValueError(
                    f"data: give the text to read; {folder} is not of a run that has some"
                )
            _, file = open_corpus(resumed_arguments(folder.parent))
            return [domain_of_tokens("validation", file)]
        size = sum(source.size for part in find_domains(data).values() for source in part)
        with _bar(size, "B", "tokenising") as bar:
            return read_domains(
                data,
                tokenizer,
                self._files / f"{len(self._known)}.bin",
                text_field=self._arguments.text_field,
                progress=bar.update,
            )


def _measure(arguments: EvaluateArguments, folders: Sequence[Path], text: _Text) -> Report:
    # Models are opened and all text is read, and found fault with, before any model runs.
    for folder in folders:
        open_trained(folder, arguments.weights)
    tokenizers = [load_tokenizer(folder) for folder in folders]
    for folder, tokenizer in zip(folders, tokenizers, strict=True):
        text.beginnings(text.domains(folder, tokenizer), tokenizer)
    reports = []
    for name, folder, tokenizer in zip(arguments.models, folders, tokenizers, strict=True):
        model, domains = load_trained(folder, arguments.weights), text.domains(folder, tokenizer)
        total = sum(max(len(d) - 1, 0) for domain in domains for d in domain.documents)
        results = {}
        for context in (None, *arguments.context):
            reach = "" if context is None else f", context {context}"
            with _bar(total, "token", f"{name}{reach}") as bar:
                results[context] = evaluate_domains(
                    model,
                    domains,
                    context=context,
                    batch_size=arguments.batch_size,
                    position_width=arguments.position_width,
                    progress=bar.update,
                )
        samples = None
        if beginnings := text.beginnings(domains, tokenizer):
            with _bar(len(beginnings), "text", f"{name}, samples") as bar:
                samples = sample_texts(
                    model, tokenizer, beginnings, seed=arguments.seed, progress=bar.update
                )
        reports.append(ModelReport(str(name), str(folder), tokenizer.fingerprint, results, samples))
    return Report(tuple(reports))


def _write(out: Path, report: Report, numbers: dict[str, Any]) -> None:
    from exlstm.evaluate.report_plot import plot_domains, plot_positions, save

    pictures: dict[str, Callable[[Report], Any]] = {"positions.svg": plot_positions}
    if len(report.models[0].whole.domains) > 1:
        pictures = {"domains.svg": plot_domains, **pictures}
    for name, plot in pictures.items():
        save(plot(report), out / name)
    write_text(out / "results.json", json.dumps(numbers, indent=2) + "\n")
    write_text(out / "report.md", as_markdown(report, list(pictures)))


def _bar(total: int, unit: str, what: str) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit=unit, unit_scale=True, disable=None, leave=False)
