"""Forecasts from the past, beside what then came and what the seasonal naive forecast says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from exlstm.forecast import scores
from exlstm.forecast.naive import seasonal_naive
from exlstm.forecast.panel import Panel
from exlstm.forecast.results import between, long_frame

if TYPE_CHECKING:
    from exlstm.forecast.forecaster import XLSTMForecaster


class CrossValidation(NamedTuple):
    """Of `XLSTMForecaster.cross_validate`.

    Attributes:
        forecasts: `unique_id, ds`, `cutoff` (the last step that was known), `y`, `y_hat`, the
            quantiles, and `seasonal_naive`.
        scores: Rows for each origin and for "all", of "xlstm" and "seasonal naive": `mase, smape,
            wql, sql, crps`, and `coverage` beside `promised`, of the outermost interval.
    """

    forecasts: pd.DataFrame
    scores: pd.DataFrame


class Origin(NamedTuple):
    """One origin: what came (series, horizon), both forecasts (series, horizon, Q), the scales."""

    truth: np.ndarray
    xlstm: np.ndarray
    naive: np.ndarray
    scale: np.ndarray


def fit_and_backtest(
    forecaster: XLSTMForecaster, given: Any, windows: int, step: int
) -> CrossValidation:
    """Fit on what lies before the first origin, and forecast from each; see `cross_validate`.

    The state is then the end of all that was given.
    """
    panel, layout = forecaster._read(given)
    horizon = forecaster.horizon
    if windows < 1 or step < 1:
        raise ValueError(f"windows {windows} and step {step} must be at least 1")
    before = panel.without_last(horizon + (windows - 1) * step)
    if not before.ids:
        raise ValueError(
            f"{windows} windows of horizon {horizon}, {step} steps apart, are too long for the "
            f"data: the longest series has {panel.lengths.max()} steps"
        )
    forecaster._fit(before, layout)
    result = _backtest(forecaster, panel.of(before.ids), windows, step)
    forecaster.history_ = panel.last(forecaster.context_length_)
    return result


def _backtest(fitted: XLSTMForecaster, panel: Panel, windows: int, step: int) -> CrossValidation:
    horizon, levels = fitted.horizon, tuple(fitted.quantiles)
    origins, frames = [], []
    for back in range((windows - 1) * step, -1, -step):
        history = panel.without_last(horizon + back)
        came = panel.without_last(back) if back else panel
        ahead = np.stack([values[-horizon:] for values in came.values])
        truth = ahead[..., 0]
        known = 1 + len(fitted.past)
        xlstm = fitted._quantiles(history.last(fitted.context_length_), ahead[..., known:])
        season = fitted.season_length_
        targets = [values[:, 0] for values in history.values]
        naive = np.stack([seasonal_naive(one, horizon, season, levels) for one in targets])
        scale = np.array([scores.seasonal_error(one, season) for one in targets])
        origins.append(Origin(truth, xlstm, naive, scale))
        point = between(xlstm, levels, (0.5,))
        columns = [truth[..., None], point, xlstm, between(naive, levels, (0.5,))]
        names = ("y", "y_hat", *(f"q{level:g}" for level in levels), "seasonal_naive")
        frame = long_frame(history, np.concatenate(columns, 2), names)
        frame.insert(2, "cutoff", pd.Index(history.ends).repeat(horizon))
        frames.append(frame)
    table = []
    whole = Origin(*(np.concatenate(parts) for parts in zip(*origins, strict=True)))
    for name, origin in [*enumerate(origins), ("all", whole)]:
        for who in ("xlstm", "seasonal naive"):
            quantiles = origin.xlstm if who == "xlstm" else origin.naive
            row = score(origin.truth, quantiles, levels, origin.scale)
            table.append({"origin": name, "forecaster": who, **row})
    return CrossValidation(pd.concat(frames, ignore_index=True), pd.DataFrame(table))


def score(
    truth: np.ndarray, quantiles: np.ndarray, levels: tuple[float, ...], scale: np.ndarray
) -> dict[str, float]:
    """All scores of forecasts (series, horizon, Q); see `exlstm.forecast.scores`."""
    median = between(quantiles, levels, (0.5,))[..., 0]
    return {
        "mase": scores.mase(truth, median, scale),
        "smape": scores.smape(truth, median),
        "wql": scores.wql(truth, quantiles, levels),
        "sql": scores.sql(truth, quantiles, levels, scale),
        "crps": scores.crps(truth, quantiles, levels),
        "coverage": scores.coverage(truth, quantiles[..., 0], quantiles[..., -1]),
        "promised": levels[-1] - levels[0],
    }
