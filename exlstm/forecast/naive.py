"""The seasonal naive forecast, which every other one has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri


def seasonal_naive(
    history: np.ndarray, horizon: int, season_length: int, levels: Sequence[float]
) -> np.ndarray:
    """Forecast what was a season ago: y_(t+k) = y_(t+k - seasons), the latest that is known.

    Quantiles are those of a normal distribution of variance σ² s, with σ² the mean square of
    y_t - y_(t - season) and s the seasons that lie between, counted up.
    Source: Hyndman and Athanasopoulos, Forecasting: Principles and Practice, 5.5.

    Args:
        history: (time,), with at least one known value; NaN is missing.
        horizon: Steps ahead.
        season_length: Steps of a season.
        levels: Of the quantiles (Q,).

    Returns:
        (horizon, Q). Where a whole phase of the season is missing, the last known value.

    Example:
        >>> history = np.array([1.0, 5.0, 1.0, 5.0])
        >>> seasonal_naive(history, 3, 2, [0.5])[:, 0].tolist()
        [1.0, 5.0, 1.0]
    """
    known = np.flatnonzero(~np.isnan(history))
    middle = np.empty(horizon)
    for step in range(horizon):
        phase = known[(known - len(history) - step) % season_length == 0]
        middle[step] = history[phase[-1] if len(phase) else known[-1]]
    change = history[season_length:] - history[:-season_length]
    change = change[~np.isnan(change)]
    deviation = np.sqrt(np.square(change).mean()) if len(change) else 0.0
    seasons = 1 + np.arange(horizon) // season_length
    return middle[:, None] + deviation * np.sqrt(seasons)[:, None] * ndtri(np.asarray(levels))
