"""What was measured of one or several models, as tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from exlstm.evaluate.domains import Comparison, DomainEvaluation, compare_domains
from exlstm.evaluate.samples import Samples

Table = tuple[str, list[list[str]]]
"""A title, and rows; the first row is the head, the first cell of a row its name."""


@dataclass(frozen=True)
class ModelReport:
    """What was measured of a model.

    Attributes:
        name: In the tables.
        checkpoint: Where it lies.
        tokenizer: Fingerprint of its tokenizer.
        results: Number of tokens after which the memory was emptied, or `None` -> evaluation.
        samples: Texts of it, if any were asked for.
    """

    name: str
    checkpoint: str
    tokenizer: str
    results: dict[int | None, DomainEvaluation]
    samples: Samples | None = None

    @property
    def whole(self) -> DomainEvaluation:
        """With the memory never emptied within a document."""
        return self.results[None]


@dataclass(frozen=True)
class Report:
    """What was measured of several models on the same text."""

    models: tuple[ModelReport, ...]

    @property
    def metric(self) -> str:
        """What models can be compared by: bits per byte if their tokenizers differ."""
        alike = len({model.tokenizer for model in self.models}) == 1
        return "perplexity" if alike else "bits_per_byte"

    def comparisons(self) -> list[tuple[str, str, Comparison]]:
        """Every two models, domain by domain."""
        return [
            (a.name, b.name, compare_domains(a.whole.domains, b.whole.domains, metric))
            for metric in [self.metric]
            for a, b in combinations(self.models, 2)
        ]


def report_json(report: Report) -> dict[str, Any]:
    """All the numbers, for `json.dumps`; what is not a number is None."""
    models = [
        {
            "name": model.name,
            "checkpoint": model.checkpoint,
            "tokenizer": model.tokenizer,
            "results": [
                {
                    "context": context,
                    **asdict(result.micro),
                    "macro": asdict(result.macro),
                    "domains": {name: asdict(part) for name, part in result.domains.items()},
                    "positions": [asdict(bucket) for bucket in result.positions],
                }
                for context, result in model.results.items()
            ],
            "samples": None if model.samples is None else asdict(model.samples),
        }
        for model in report.models
    ]
    comparisons = [
        {"first": first, "second": second, **asdict(comparison)}
        for first, second, comparison in report.comparisons()
    ]
    return _finite({"models": models, "comparisons": comparisons})


def tables(report: Report) -> list[Table]:
    """The tables of a report, those without rows left out."""
    made = [_averages(report), _domains(report), _comparisons(report), *_positions(report)]
    return [table for table in [*made, _texts(report)] if len(table[1]) > 1]


def as_text(table: Table, most_rows: int | None = None) -> str:
    """A table for the terminal, its end left out beyond `most_rows`."""
    title, rows = table
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    left = 0 if most_rows is None else len(rows) - 1 - most_rows
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (rows[:-left] if left > 0 else rows)
    ]
    if left > 0:
        lines.append(f"and {left:,} more: --out writes all")
    return "\n".join([title, *(line.rstrip() for line in lines)])


def as_markdown(report: Report, pictures: Sequence[str] = ()) -> str:
    """A page with all tables, the pictures named, and the sampled texts."""
    parts = ["# Evaluation", _description(report)]
    for title, (head, *rows) in tables(report):
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
        table = "\n".join("| " + " | ".join(map(_escape, line)) + " |" for line in lines)
        parts += [f"## {title}", table]
    parts += [f"![{name.removesuffix('.svg')}]({name})" for name in pictures]
    sampled = {model.name: model.samples for model in report.models if model.samples is not None}
    beginnings = next(iter(sampled.values())).beginnings if sampled else ()
    for number, beginning in enumerate(beginnings):
        parts.append(f"## Text {number + 1}, {_escape(beginning.domain)}")
        texts = {"given": beginning.prompt, "the document goes on": beginning.continuation}
        texts |= {name: samples.texts[number] for name, samples in sampled.items()}
        for name, text in texts.items():
            quoted = "\n".join(f"    {line}" for line in text.splitlines())
            parts.append(f"{_escape(name)}:\n\n{quoted}")
    return "\n\n".join(parts) + "\n"


def _description(report: Report) -> str:
    result = report.models[0].whole.micro
    text = f"{result.num_documents:,} documents, {result.num_bytes:,} bytes of UTF-8. Each was "
    text += "read from an empty memory to its end, where no context is named."
    if report.metric == "bits_per_byte":
        text += " The tokenizers differ, so perplexities are of different tokens and not compared: "
        text += "bits per byte are."
    return text


def _averages(report: Report) -> Table:
    several = len(report.models[0].whole.domains) > 1
    names = ["perplexity", "bits per byte"][report.metric == "bits_per_byte" :]
    head = ["model", "context", *(["loss"] if "perplexity" in names else []), *names]
    head += [f"macro {name}" for name in names] if several else []
    rows = []
    for model in report.models:
        for context, result in model.results.items():
            numbers = {
                name.replace("_", " "): value for name, value in asdict(result.micro).items()
            }
            numbers |= {
                f"macro {name.replace('_', ' ')}": value
                for name, value in asdict(result.macro).items()
            }
            values = [f"{numbers[name]:.4f}" for name in head[2:]]
            rows.append([model.name, _context(context), *values])
    over = ", and the mean over the domains (macro)" if several else ""
    return f"Over all documents{over}", [head, *rows]


def _domains(report: Report) -> Table:
    metrics = ("perplexity", "bits_per_byte")[report.metric == "bits_per_byte" :]
    several = len(report.models) > 1
    head = ["domain", "documents", "bytes"]
    for metric in metrics:
        name = metric.replace("_", " ")
        head += [f"{name}, {m.name}" if several else name for m in report.models]
    first = report.models[0].whole.domains
    rows = [
        [
            domain,
            f"{result.num_documents:,}",
            f"{result.num_bytes:,}",
            *(
                f"{getattr(model.whole.domains[domain], metric):.4f}"
                for metric in metrics
                for model in report.models
            ),
        ]
        for domain, result in first.items()
    ]
    return "By domain", [head, *(rows if len(rows) > 1 else [])]


def _comparisons(report: Report) -> Table:
    head = ["model", "against", "domains won", "lost", "share won", "mean ratio"]
    rows = [
        [
            first,
            second,
            f"{comparison.won:,}",
            f"{comparison.lost:,}",
            f"{comparison.share_won:.1%}",
            f"{comparison.ratio:.4f}",
            *(f"{ratio:.4f} {domain}" for domain, ratio in (comparison.best, comparison.worst)),
        ]
        for first, second, comparison in report.comparisons()
    ]
    name = report.metric.replace("_", " ")
    return f"Compared by {name}, less is better", [[*head, "smallest", "largest"], *rows]


def _positions(report: Report) -> list[Table]:
    """One table, or one for each model where a token is not the same for all."""
    alike = report.metric == "perplexity"
    groups = [report.models] if alike else [(model,) for model in report.models]
    return [_position_table(models, title=not alike) for models in groups]


def _position_table(models: Sequence[ModelReport], *, title: bool) -> Table:
    columns = [(model, context) for model in models for context in model.results]
    head = ["token of the document", "documents", "tokens"]
    for model, context in columns:
        name = f"context {_context(context)}"
        head.append(f"{model.name}, {name}" if len(models) > 1 else name)
    rows = [
        [
            f"{bucket.first:,}" + (f" to {bucket.last:,}" if bucket.last > bucket.first else ""),
            f"{bucket.num_documents:,}",
            f"{bucket.num_tokens:,}",
            *(f"{m.results[context].positions[number].loss:.4f}" for m, context in columns),
        ]
        for number, bucket in enumerate(models[0].whole.positions)
    ]
    return "Loss by position" + (f", {models[0].name}" if title else ""), [head, *rows]


def _texts(report: Report) -> Table:
    head = ["text", "distinct-1", "distinct-2", "distinct-3", "repetition-4", "bits per byte"]
    rows = []
    for model in report.models:
        if model.samples is not None:
            texts = (model.samples.generated, "written"), (model.samples.held_out, "held out")
            for statistics, kind in texts:
                numbers = [f"{number:.4f}" for number in asdict(statistics).values()]
                rows.append([f"{model.name}, {kind}", *numbers])
    return "Texts the model wrote, and how the documents go on", [head, *rows]


def _context(context: int | None) -> str:
    return "unlimited" if context is None else f"{context:,}"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
