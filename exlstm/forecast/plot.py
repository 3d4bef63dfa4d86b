"""A picture of forecasts, as a matplotlib figure that belongs to no window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from exlstm.forecast.panel import Panel, some
from exlstm.forecast.results import between

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_forecast(
    panel: Panel,
    quantiles: np.ndarray,
    levels: tuple[float, ...],
    ids: Sequence[object],
    steps: int,
) -> Figure:
    """Draw histories, medians and intervals, a panel of the picture for each series.

    Args:
        panel: The histories.
        quantiles: What is forecast (series, horizon, Q).
        levels: Of the quantiles.
        ids: Which series.
        steps: Of the history, at most.

    Raises:
        ValueError: There is no such series, or matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ValueError("a picture needs matplotlib: pip install 'exlstm[ts]'") from None

    if not len(ids):
        raise ValueError("ids: give at least one series")
    figure = Figure(figsize=(9.0, 0.6 + 2.2 * len(ids)), layout="constrained")
    grid = figure.subplots(len(ids), squeeze=False)[:, 0]
    for axes, id in zip(grid, ids, strict=True):
        if id not in panel.ids:
            raise ValueError(f"ids: {id!r} is not known; known are {some(panel.ids)}")
        series = panel.ids.index(id)
        times = panel.times(series)[-steps:]
        ahead = panel.times_ahead(series, quantiles.shape[1])
        axes.plot(times, panel.values[series][-steps:, 0], color="0.25", linewidth=1.2)
        for pair in range(len(levels) // 2):
            low, high = quantiles[series, :, pair], quantiles[series, :, -1 - pair]
            label = f"{levels[pair]:g} to {levels[-1 - pair]:g}" if pair == 0 else None
            axes.fill_between(
                ahead, low, high, color="C0", alpha=0.6 / len(levels), linewidth=0, label=label
            )
        median = between(quantiles[series], levels, (0.5,))[:, 0]
        axes.plot(ahead, median, color="C0", linewidth=1.5, label="median")
        axes.set_title(str(id), fontsize="medium", loc="left")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    lines, names = grid[0].get_legend_handles_labels()
    figure.legend(
        lines, names, loc="outside upper right", ncols=len(names), frameon=False, fontsize="small"
    )
    return figure
