"""What the methods of the estimator are given, as panels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from exlstm.forecast.panel import (
    Panel,
    numbers,
    panel_from_arrays,
    panel_from_frame,
    steps_after,
)
from exlstm.forecast.rows import Covariates, plain

Layout = Literal["frame", "series", "arrays"]
"""Of an input, and so of the output: a long frame, one series (time,), or several."""


def check_columns(*groups: Sequence[str]) -> None:
    """Check the names of covariates.

    Raises:
        ValueError: They are one string, or a column has two roles.

    Example:
        >>> check_columns(("store",), ("price", "promotion"))
    """
    names = ["unique_id", "ds", "y"]
    for group in groups:
        if isinstance(group, str):
            raise ValueError(f"columns must be a sequence of names, got {group!r}: ({group!r},)")
        names += group
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"column {name!r} has two roles")


def read(given: Any, covariates: Covariates, freq: object) -> tuple[Panel, Layout]:
    """Read a frame or arrays.

    Raises:
        ValueError: As `panel_from_frame` and `panel_from_arrays`; arrays have no covariates.
    """
    if isinstance(given, pd.DataFrame):
        return panel_from_frame(given, covariates, freq), "frame"
    if any(covariates):
        raise ValueError(
            "covariates have names: give a frame with unique_id, ds, y and their columns"
        )
    arrays, layout = _arrays(given)
    return panel_from_arrays(arrays), layout


def _arrays(given: Any) -> tuple[Any, Layout]:
    if isinstance(given, pd.Series):
        raise ValueError(
            "a pandas Series is not read, as its index would be lost: give a frame with "
            "unique_id, ds, y, or its .to_numpy()"
        )
    if isinstance(given, list | tuple):
        if all(np.ndim(one) == 0 for one in given):
            return np.asarray(given), "series"
        return list(given), "arrays"
    array = np.asarray(given)
    return array, "series" if array.ndim == 1 else "arrays"


def history_of(given: Any, covariates: Covariates, fitted: Panel) -> tuple[Panel, Layout]:
    """Read histories to forecast, on a grid like that of the fit.

    Raises:
        ValueError: As `read`; or a series has another frequency: no two of its rows, if there are
            three or more, lie one step apart.
    """
    panel, layout = read(given, covariates, fitted.freq)
    if layout == "frame":
        for series, values in enumerate(panel.values):
            there = np.flatnonzero(~np.isnan(values[:, 0]))
            if len(there) > 2 and np.diff(there).min() > 1:
                raise ValueError(
                    f"series {panel.ids[series]!r} is every {np.diff(there).min()} steps of "
                    f"{fitted.freq}, the frequency of the fit: no two values are one step apart"
                )
    return panel, layout


def known_ahead(
    panel: Panel, future: pd.DataFrame | None, columns: tuple[str, ...], horizon: int
) -> np.ndarray:
    """Read covariates that are known ahead (series, horizon, F).

    Raises:
        ValueError: As `steps_after`; or a number is missing, or there is a frame and no covariate,
            or the other way round.
    """
    if not columns:
        if future is not None:
            raise ValueError("future: no covariates known ahead were named in the constructor")
        return np.empty((len(panel.ids), horizon, 0))
    named = ", ".join(columns)
    if future is None:
        raise ValueError(f"future: give a frame with unique_id, ds, {named} for {horizon} steps")
    found = steps_after(panel, future, columns)
    ahead = np.full((len(panel.ids), horizon, len(columns)), np.nan)
    for series, (values, _) in found.items():
        ahead[series, : len(values)] = values[:horizon]
    if np.isnan(ahead).any():
        series, step, column = np.argwhere(np.isnan(ahead))[0]
        raise ValueError(
            f"future: series {panel.ids[series]!r} lacks {columns[column]} at "
            f"{panel.times_ahead(series, horizon)[step]}; all of the {horizon} steps are needed"
        )
    return ahead


def advanced(history: Panel, new: Any, covariates: Covariates, layout: Layout) -> Panel:
    """Append what follows a panel.

    Raises:
        ValueError: It is of another form than the panel was, or does not follow; see `steps_after`.
    """
    if isinstance(new, pd.DataFrame) != (layout == "frame"):
        wanted = "a frame" if layout == "frame" else "arrays"
        raise ValueError(f"update: give {wanted}, as in fit, not {type(new).__name__}")
    ends, values = list(history.ends), list(history.values)
    if isinstance(new, pd.DataFrame):
        found = steps_after(history, new, ("y", *covariates.past, *covariates.future))
        for series, (rows, times) in found.items():
            values[series] = np.concatenate([values[series], rows])
            ends[series] = plain(times[-1])
        return replace(history, ends=ends, values=values)
    arrays, form = _arrays(new)
    if form != layout:
        shapes = {"series": "(time,)", "arrays": "(series, time) or a list of (time,)"}
        raise ValueError(f"update: give {shapes[layout]}, as in fit")
    arrays = [arrays] if form == "series" else arrays
    if len(arrays) != len(values):
        raise ValueError(f"update: {len(arrays)} series, in fit there were {len(values)}")
    for series, one in enumerate(arrays):
        rows = numbers(one, f"series {series}")[:, None]
        values[series] = np.concatenate([values[series], rows])
        ends[series] += len(rows)
    return replace(history, ends=ends, values=values)
