"""A picture of a series, its scores and what they mark, as a figure that belongs to no window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exlstm.anomaly.series import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_CHANNELS = 8


def plot_scores(
    series: Array,
    scores: Array,
    threshold: float,
    *,
    names: Sequence[str] | None = None,
    index: Any = None,
) -> Figure:
    """Draw the channels, at most 8, the steps marked, and below them the scores.

    Args:
        series: (T, C).
        scores: (T,).
        threshold: Steps above it are marked.
        names: Of the channels.
        index: (T,) what stands along the axis; `None`: the numbers of the steps.

    Raises:
        ValueError: The sizes do not fit.

    Example:
        >>> figure = plot_scores(np.zeros((5, 1)), np.array([0.0, 0, 3, 3, 0]), 1.0, names=["a"])
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['a', 'score']
    """
    from matplotlib.figure import Figure

    index = np.arange(len(series)) if index is None else np.asarray(index)
    if not len(series) == len(scores) == len(index):
        raise ValueError(
            f"series, scores and index must be of one length, got {len(series)}, {len(scores)} "
            f"and {len(index)}"
        )
    shown = min(series.shape[1], _MOST_CHANNELS)
    names = [f"channel {number}" for number in range(shown)] if names is None else names
    figure = Figure(figsize=(10, 1.6 * (shown + 1) + 0.6), layout="constrained")
    panels = list(figure.subplots(shown + 1, sharex=True, squeeze=False).flat)
    marked = scores > threshold
    change = np.diff(marked.astype(int), prepend=0, append=0)
    ranges = list(zip(np.flatnonzero(change > 0), np.flatnonzero(change < 0) - 1, strict=True))
    for number, axes in enumerate(panels[:-1]):
        axes.plot(index, series[:, number], linewidth=0.7)
        # What a range alone would not show: a single step, or one between missing values.
        axes.plot(index[marked], series[marked, number], ".", color="C3", markersize=3)
        axes.set_ylabel(names[number])
    panels[-1].plot(index, scores, linewidth=0.7, color="C1")
    panels[-1].axhline(threshold, color="C3", linewidth=0.7, linestyle="--")
    panels[-1].set_ylabel("score")
    for axes in panels:
        for first, last in ranges:
            axes.axvspan(index[first], index[last], color="C3", alpha=0.15, linewidth=0)
    if series.shape[1] > shown:
        panels[0].set_title(f"{shown} of {series.shape[1]} channels", fontsize="small")
    return figure
