"""How good forecasts are. Where the truth is NaN, nothing is counted; without any truth: NaN.

y is the truth, ŷ a point forecast, ŷ_τ the forecast of the quantile τ; sums and means run over all
that is counted. The first axis of everything is that of the series where a scale is one a series.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def seasonal_error(history: ArrayLike, season_length: int = 1) -> float:
    """Mean of |y_t - y_(t - season)| over a history: the scale of `mase` and `sql`.

    NaN if no two values lie a season apart, or all that do are equal: such a series has no scale.

    Args:
        history: (time,), of what came before the forecast only.
        season_length: Steps of a season; 1 is the step before.

    Raises:
        ValueError: The season is not at least 1.

    Example:
        >>> seasonal_error([1.0, 3.0, 2.0, 6.0], season_length=2)
        2.0
    """
    if season_length < 1:
        raise ValueError(f"season_length must be at least 1, got {season_length}")
    history = np.asarray(history, np.float64)
    error = _mean(np.abs(history[season_length:] - history[:-season_length]))
    return error if error > 0 else float("nan")


def mase(truth: ArrayLike, forecast: ArrayLike, scale: ArrayLike) -> float:
    """Mean absolute scaled error: mean of |y - ŷ| / scale. Below 1 beats the naive one in-sample.

    Args:
        truth: (time,) or (series, time).
        forecast: The same shape.
        scale: `seasonal_error` of the series, or of each; a series whose scale is NaN is left out.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> mase([[1.0, 2.0], [0.0, 4.0]], [[2.0, 2.0], [2.0, 2.0]], [1.0, 4.0])
        0.5
    """
    truth, forecast = _same_shape(truth, forecast)
    return _mean(np.abs(truth - forecast) / _by_series(scale, truth.ndim))


def smape(truth: ArrayLike, forecast: ArrayLike) -> float:
    """Symmetric mean absolute percentage error: mean of 2 |y - ŷ| / (|y| + |ŷ|).

    Between 0 and 2; 0 where both are 0.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> smape([1.0, 0.0], [3.0, 0.0])
        0.5
    """
    truth, forecast = _same_shape(truth, forecast)
    size = np.abs(truth) + np.abs(forecast)
    return _mean(2 * np.abs(truth - forecast) / np.where(size == 0, 1.0, size))


def pinball(truth: ArrayLike, quantiles: ArrayLike, levels: Sequence[float]) -> Array:
    """Quantile loss of each forecast: τ (y - ŷ_τ) where y is above, (1 - τ) (ŷ_τ - y) below.

    Args:
        truth: (..., time).
        quantiles: (..., time, Q).
        levels: τ of each (Q,).

    Returns:
        (..., time, Q); NaN where the truth is.

    Raises:
        ValueError: The shapes do not fit.

    Example:
        >>> pinball([10.0], [[8.0, 13.0]], [0.5, 0.9]).round(6).tolist()
        [[1.0, 0.3]]
    """
    truth, quantiles = np.asarray(truth, np.float64), np.asarray(quantiles, np.float64)
    if quantiles.shape != (*truth.shape, len(levels)):
        raise ValueError(
            f"quantiles {quantiles.shape} must be {(*truth.shape, len(levels))}: "
            f"the shape of the truth and {len(levels)} levels"
        )
    error = truth[..., None] - quantiles
    return np.maximum(np.asarray(levels) * error, (np.asarray(levels) - 1) * error)


def wql(truth: ArrayLike, quantiles: ArrayLike, levels: Sequence[float]) -> float:
    """Weighted quantile loss: the mean over τ of 2 Σ pinball_τ / Σ |y|. Large series weigh more.

    Args and errors as `pinball`.

    Example:
        >>> wql([10.0, 10.0], [[8.0], [10.0]], [0.5])
        0.1
    """
    loss = pinball(truth, quantiles, levels)
    total = np.nansum(np.abs(np.asarray(truth, np.float64)))
    return float(2 * np.nansum(loss) / len(levels) / total) if total > 0 else float("nan")


def sql(truth: ArrayLike, quantiles: ArrayLike, levels: Sequence[float], scale: ArrayLike) -> float:
    """Scaled quantile loss: the mean of 2 pinball_τ / scale. With the median alone, it is `mase`.

    Args and errors as `pinball` and `mase`.

    Example:
        >>> sql([10.0, 10.0], [[8.0], [10.0]], [0.5], scale=4.0)
        0.25
    """
    loss = pinball(truth, quantiles, levels)
    return _mean(2 * loss / _by_series(scale, loss.ndim))


def crps(truth: ArrayLike, quantiles: ArrayLike, levels: Sequence[float]) -> float:
    r"""Continuous ranked probability score from quantiles, in the units of the series.

    CRPS = 2 ∫ pinball_τ dτ, with each level standing for the part of [0, 1] that is nearest to it.
    With the median alone, it is the mean absolute error.

    Args and errors as `pinball`; `levels` must increase.

    Example:
        >>> crps([10.0], [[8.0]], [0.5])
        2.0
    """
    loss = pinball(truth, quantiles, levels)
    taus = np.asarray(levels)
    edges = np.r_[0.0, (taus[1:] + taus[:-1]) / 2, 1.0]
    return _mean(2 * (loss * np.diff(edges)).sum(-1))


def coverage(truth: ArrayLike, low: ArrayLike, high: ArrayLike) -> float:
    """Share of the truth that lies in [low, high].

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> coverage([1.0, 2.0, float("nan"), 4.0], [0.0] * 4, [2.0] * 4)
        0.6666666666666666
    """
    truth, low = _same_shape(truth, low)
    truth, high = _same_shape(truth, high)
    known = ~np.isnan(truth)
    return float(((truth >= low) & (truth <= high))[known].mean()) if known.any() else float("nan")


def _mean(values: Array) -> float:
    counted = values[~np.isnan(values)]
    return float(counted.mean()) if len(counted) else float("nan")


def _same_shape(truth: ArrayLike, forecast: ArrayLike) -> tuple[Array, Array]:
    truth, forecast = np.asarray(truth, np.float64), np.asarray(forecast, np.float64)
    if truth.shape != forecast.shape:
        raise ValueError(
            f"forecast {forecast.shape} must have the shape of the truth {truth.shape}"
        )
    return truth, forecast


def _by_series(scale: ArrayLike, ndim: int) -> Array:
    scale = np.asarray(scale, np.float64)
    return scale.reshape(scale.shape + (1,) * (ndim - scale.ndim)) if scale.ndim else scale
