"""Pictures of a comparison: bits per byte against tokens, seconds and length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from exlstm.evidence.comparison import Comparison, Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(comparison: Comparison, scores: Sequence[Score], title: str) -> Figure:
    """Three panels; lines are medians over the seeds, bands go from the best to the worst."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize="medium")
    tokens, minutes, length = figure.subplots(1, 3)
    a_step = comparison.num_bytes / comparison.steps
    for number, score in enumerate(scores):
        name = score.model.label
        curves = [result["evaluations"] for result in score.results]
        points = list(zip(*curves, strict=True))  # a point of all seeds
        bits = [[one["validation"]["loss"] / math.log(2) for one in point] for point in points]
        _line(tokens, number, name, [point[0]["step"] * a_step / 1e6 for point in points], bits)
        spent = [median(one["cpu_seconds"] for one in point) / 60 for point in points]
        _line(minutes, number, name, spent, bits)
        _line(length, number, name, comparison.times, [score.bits(n) for n in comparison.times])
    tokens.set(xlabel="million bytes read in training", ylabel="bits per byte, validation")
    minutes.set(xlabel="CPU minutes of training, one thread", ylabel="bits per byte, validation")
    length.set(xlabel="length read / that of the training", ylabel="bits per byte, left out")
    length.set_xscale("log", base=2)
    length.set_xticks(comparison.times, list(map(str, comparison.times)))
    length.minorticks_off()
    for axes in (tokens, minutes, length):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (tokens, minutes):  # the first steps are the same for all, and far above
        axes.set_ylim(top=_top(scores))
    handles, names = tokens.get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=len(names),
        frameon=False,
        fontsize="small",
    )
    return figure


def _line(
    axes: Axes, number: int, name: str, places: Sequence[float], values: Sequence[Sequence[float]]
) -> None:
    colour, marker = f"C{number}", "osD^vPX*"[number % 8]
    axes.plot(
        places, list(map(median, values)), color=colour, marker=marker, markersize=3, label=name
    )
    low, high = ([end(part) for part in values] for end in (min, max))
    axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)


def _top(scores: Sequence[Score]) -> float:
    """The best end of a curve, and 2.5 bits."""
    return min((score.validation for score in scores), default=0.0) + 2.5
