"""What a sweep says: every model at its best learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Row:
    """A model at the learning rate that is best on the validation set of the training lengths."""

    model: str
    lr: float
    validation: float
    """Median over the seeds, as all that follows: scaled accuracy, or the mean squared error."""
    test: float
    test_min: float
    test_max: float
    by_length: dict[tuple[int, int], float]
    """On the test set, by shortest and longest row."""
    num_runs: int
    num_solved: int
    num_params: int
    cpu_seconds: float
    note: str
    failed: dict[float, int]
    """Runs without a result, by learning rate. Such a learning rate is the last to be chosen."""


def summarize(records: Sequence[dict[str, Any]]) -> list[Row]:
    """One row for each model of which a run has a result, in the order of the records.

    Args:
        records: Of one task, as `sweep` returns them.
    """
    by_model: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_model.setdefault(record["run"]["model"], []).append(record)
    rows = (_row(model, of_model) for model, of_model in by_model.items())
    return [row for row in rows if row is not None]


def table(rows: Sequence[Row]) -> str:
    """The rows as text, the failed runs and the notes below."""
    if not rows:
        return "no run has a result"
    lengths = ["-".join(map(str, bucket)) for bucket in rows[0].by_length]
    head = ["model", "parameters", "lr", "validation", "test", "from", "to", *lengths]
    cells = [[*head, "seeds", "solved", "CPU-s/run"]]
    for row in rows:
        scores = (row.validation, row.test, row.test_min, row.test_max, *row.by_length.values())
        end = (str(row.num_runs), str(row.num_solved), f"{row.cpu_seconds:.0f}")
        scores = (f"{score:.3f}" for score in scores)
        cells.append([row.model, f"{row.num_params:,}", f"{row.lr:g}", *scores, *end])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        line[0].ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))
        for line in cells
    ]
    for row in rows:
        lines += [f"{row.model}: {number} failed at {lr:g}" for lr, number in row.failed.items()]
        lines += [f"{row.model}: {row.note}"] * bool(row.note)
    return "\n".join(lines)


def line(record: dict[str, Any]) -> str:
    """A record in one line."""
    run = record["run"]
    name = f"{run['model']}, lr {run['lr']:g}, seed {run['seed']}"
    if "error" in record:
        return f"{name}: {record['error']}"
    result = record["result"]
    score = _score(result["test"])
    return f"{name}: {score:.3f} after {result['steps']:,} steps, {result['cpu_seconds']:.0f} CPU s"


class Best(NamedTuple):
    """The runs of one model at the learning rate that is best on the validation set."""

    lr: float
    results: list[dict[str, Any]]
    """None, at a learning rate of NaN, where every run failed."""
    failed: dict[float, int]
    """Runs without a result, by learning rate. Such a learning rate is the last to be chosen."""


def at_the_best_learning_rate(
    records: Sequence[dict[str, Any]], score: Callable[[Mapping[str, Any]], float]
) -> Best:
    """Choose by the median over the seeds of a score on the validation set, then of the loss.

    Args:
        records: Of one model on one task.
        score: Of what `evaluate` returns; the larger the better.
    """
    by_lr: dict[float, list[dict[str, Any]]] = {}
    failed: dict[float, int] = {}
    for record in records:
        lr = record["run"]["lr"]
        if "error" in record:
            failed[lr] = failed.get(lr, 0) + 1
        else:
            by_lr.setdefault(lr, []).append(record["result"])
    if not by_lr:
        return Best(math.nan, [], failed)

    def badness(lr: float) -> tuple[bool, float, float]:
        validations = [result["validation"] for result in by_lr[lr]]
        return (
            lr in failed,
            -median(map(score, validations)),
            median(one["loss"] for one in validations),  # decides among the perfect
        )

    lr = min(by_lr, key=badness)
    return Best(lr, by_lr[lr], failed)


def _row(model: str, records: list[dict[str, Any]]) -> Row | None:
    lr, results, failed = at_the_best_learning_rate(
        records, lambda scores: scores.get("scaled_accuracy", -math.inf)
    )
    if not results:
        return None
    tests = [_score(result["test"]) for result in results]
    return Row(
        model=model,
        lr=lr,
        validation=median(_score(result["validation"]) for result in results),
        test=median(tests),
        test_min=min(tests),
        test_max=max(tests),
        by_length=_by_length(results),
        num_runs=len(results),
        num_solved=sum(result["solved"] for result in results),
        num_params=results[0]["num_params"],
        cpu_seconds=median(result["cpu_seconds"] for result in results),
        note=results[0]["note"],
        failed=failed,
    )


def _score(scores: dict[str, Any]) -> float:
    return scores["mse"] if "mse" in scores else scores["scaled_accuracy"]


def _by_length(results: list[dict[str, Any]]) -> dict[tuple[int, int], float]:
    """The test set is one for all runs, and so are its lengths."""
    parts = zip(*(result["test"]["by_length"] for result in results), strict=True)
    return {tuple(part[0]["lengths"]): median(map(_score, part)) for part in parts}
