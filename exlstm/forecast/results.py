"""Forecasts in the form of what was given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from exlstm.forecast.inputs import Layout
from exlstm.forecast.panel import Panel


def between(quantiles: np.ndarray, levels: Sequence[float], wanted: Sequence[float]) -> np.ndarray:
    """Interpolate quantiles (..., Q) linearly between the levels that were learned.

    Raises:
        ValueError: One lies outside of them.

    Example:
        >>> between(np.array([[1.0, 3.0]]), (0.2, 0.8), (0.2, 0.5)).round(9).tolist()
        [[1.0, 2.0]]
    """
    learned, asked = np.asarray(levels, float), np.asarray(wanted, float)
    for level in asked:
        if not learned[0] <= level <= learned[-1]:
            raise ValueError(
                f"quantiles: {level:g} is outside of those learned, {learned[0]:g} to "
                f"{learned[-1]:g}; fit with quantiles= that reach as far"
            )
    right = np.searchsorted(learned, asked)
    left = np.where(learned[right] == asked, right, right - 1)
    share = (asked - learned[left]) / np.where(right > left, learned[right] - learned[left], 1.0)
    return quantiles[..., left] * (1 - share) + quantiles[..., right] * share


def as_given(panel: Panel, values: np.ndarray, names: Sequence[str], layout: Layout) -> Any:
    """Return values (series, horizon, columns) as a long frame or as an array.

    An array of a single column called `y_hat` has no axis for it.
    """
    if layout == "frame":
        return long_frame(panel, values, names)
    values = values[..., 0] if tuple(names) == ("y_hat",) else values
    return values[0] if layout == "series" else values


def long_frame(panel: Panel, values: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """Return values (series, horizon, columns) of the steps that follow a panel."""
    horizon = values.shape[1]
    times = [panel.times_ahead(series, horizon) for series in range(len(panel.ids))]
    columns = {
        "unique_id": np.repeat(np.array(panel.ids, dtype=object), horizon),
        "ds": times[0].append(times[1:]),
    }
    frame = pd.DataFrame(columns).infer_objects()
    for place, name in enumerate(names):
        frame[name] = values[..., place].reshape(-1)
    return frame
