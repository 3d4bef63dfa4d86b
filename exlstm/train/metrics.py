"""Metrics: one JSON line per step, and the picture drawn from them."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from exlstm.data.atomic import replacing, write_text


class MetricsLog:
    """`metrics.jsonl`: one line per step, in order, each step once, also over a resume.

    Lines after `step` are dropped: the run repeats those steps.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
        >>> log = MetricsLog(path, step=0)
        >>> log.add(1, loss=5.5)
        >>> log.add(1, validation_loss=5.6)
        >>> log.close()
        >>> [sorted(line) for line in read_metrics(path)]
        [['elapsed', 'loss', 'step', 'validation_loss']]
    """

    def __init__(self, path: Path, step: int) -> None:
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")
        self._line: dict[str, Any] = {}
        self._began = time.perf_counter() - (kept[-1]["elapsed"] if kept else 0.0)

    def add(self, step: int, **values: float) -> None:
        """Add values to the line of `step`; it is written once the next step begins.

        One that is not finite becomes null, as JSON has no other word for it.
        """
        if self._line and self._line["step"] != step:
            self.flush()
        elapsed = round(time.perf_counter() - self._began, 3)
        known = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._line = {"step": step, **self._line, **known, "elapsed": elapsed}

    def flush(self) -> None:
        """Write the line of the step at hand."""
        if self._line:
            self._file.write(json.dumps(self._line) + "\n")
            self._file.flush()
            self._line = {}

    def sync(self) -> None:
        """Flush down to the disk, as a checkpoint is about to rely on it."""
        self.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close the file."""
        self.flush()
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a `metrics.jsonl`; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def applied_steps(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of the steps that were not skipped."""
    return [line for line in lines if not line.get("skipped")]


def draw_curve(metrics: Path, picture: Path, title: str) -> None:
    """Draw the training and validation curves of a `metrics.jsonl` into a PNG.

    Skipped steps are left out of the training's.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read_metrics(metrics)
    applied = applied_steps(lines)
    steps = np.array([line["step"] for line in applied])
    train = np.array([line["bits_per_byte"] for line in applied])
    validation = [
        (line["step"], line["validation_bits_per_byte"])
        for line in lines
        if "validation_bits_per_byte" in line
    ]
    figure = Figure(figsize=(7, 4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(steps, train, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(steps, _smooth(train), color="tab:blue", linewidth=1.6, label="training (smoothed)")
    if validation:
        at, values = zip(*validation, strict=True)
        last = f"validation (last: {values[-1]:.3f})"
        axes.plot(at, values, "o-", color="tab:orange", markersize=4, linewidth=1.2, label=last)
    axes.set(title=title, xlabel="step", ylabel="bits per byte", xlim=(0, None))
    # The first steps fall from 8 bits and would flatten all that follows.
    settled = train[len(train) // 20 :]
    low = min([settled.min(), *(value for _, value in validation)])
    high = settled.max()
    margin = 0.05 * (high - low) or 0.1
    axes.set_ylim(low - margin, high + margin)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with replacing(picture) as file:
        figure.savefig(file, format="png")


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return the mean over a window around each point that is narrower at the ends."""
    half = max(1, len(values) // 50)
    total = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)
