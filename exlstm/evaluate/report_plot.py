"""Pictures of an evaluation: by domain, and by position in the document."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exlstm.evaluate.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_NAMES = 60
_MARKERS = "osD^vPX*"
_STROKES = ("-", "--", ":", "-.")


def plot_domains(report: Report) -> Figure:
    """Draw a mark for each model and domain, the domains in the order of the first model.

    Beyond 60 domains their names are left out.
    """
    from matplotlib.ticker import StrMethodFormatter

    first = report.models[0].whole.domains
    order = sorted(first, key=lambda name: getattr(first[name], report.metric))
    named = len(order) <= _MOST_NAMES
    figure, axes = _figure(1.4 + 0.22 * len(order) if named else 8.0)
    for number, model in enumerate(report.models):
        axes.plot(
            [getattr(model.whole.domains[name], report.metric) for name in order],
            range(len(order)),
            _MARKERS[number % len(_MARKERS)],
            color=f"C{number}",
            markersize=5 if named else 2,
            alpha=0.7,
            label=model.name,
        )
    axes.set_yticks(range(len(order)) if named else [], order if named else [])
    axes.invert_yaxis()
    axes.set(xlabel=report.metric.replace("_", " "), title="By domain")
    axes.margins(y=0.3 / len(order))
    if report.metric == "perplexity":
        axes.set_xscale("log")
        for set_formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            set_formatter(StrMethodFormatter("{x:g}"))  # not 9 x 10^0
    if len(report.models) > 1:
        figure.legend(loc="outside lower center", frameon=False, fontsize="small")
    return figure


def plot_positions(report: Report) -> Figure:
    """Draw the mean loss over the position in the document, a line for each model and context."""
    differ = report.metric == "bits_per_byte"
    figure, axes = _figure(4.0)
    for number, model in enumerate(report.models):
        for place, (context, result) in enumerate(model.results.items()):
            reach = "unlimited" if context is None else f"{context:,}"
            axes.plot(
                [(bucket.first * bucket.last) ** 0.5 for bucket in result.positions],
                [bucket.loss for bucket in result.positions],
                _STROKES[place % len(_STROKES)] + _MARKERS[number % len(_MARKERS)],
                color=f"C{number}",
                markersize=4,
                linewidth=1.2,
                label=f"{model.name}, context {reach}",
            )
    axes.set(
        xscale="log",
        xlabel="token of the document",
        ylabel="loss (nats per token" + ("; these differ)" if differ else ")"),
        title="By position in the document",
    )
    figure.legend(loc="outside lower center", frameon=False, fontsize="small")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write an SVG that is the same for the same figure."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "exlstm"}):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
