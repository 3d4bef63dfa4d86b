r"""Intervals that hold what they promise: conformalised quantile regression, by step ahead.

On windows that neither training nor the choice of the epoch saw, the error of an interval
[ŷ_τ, ŷ_(1-τ)] is how far outside of it the truth lies, negative inside:

    e = max(ŷ_τ - y, y - ŷ_(1-τ)) / scale of the window

Of n such errors, an interval is widened on both sides by the ⌈(n + 1) (1 - 2 τ)⌉-th smallest. If
the windows and the one to forecast are exchangeable, it then holds the truth with a probability of
at least 1 - 2 τ, and at most 1 / (n + 1) more where errors do not tie.
Source: Romano, Patterson and Candès, Conformalized Quantile Regression, 2019, theorem 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def check_symmetric(levels: Sequence[float]) -> None:
    """Check that every level has its opposite.

    Raises:
        ValueError: One has none, or there is no interval.

    Example:
        >>> check_symmetric((0.1, 0.5, 0.9))
    """
    sums = np.add(levels, levels[::-1])
    if len(levels) < 2 or not np.allclose(sums, 1.0):
        raise ValueError(
            f"conformal: quantiles must come in pairs such as 0.1 and 0.9, got {tuple(levels)}"
        )


def widenings(truth: np.ndarray, quantiles: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Learn how much wider each interval must be, in the units of standardised windows.

    Args:
        truth: (n, horizon) of the calibration windows, standardised; NaN is not counted.
        quantiles: (n, horizon, Q), standardised too, never crossing.
        levels: τ of each, symmetric about a half (Q,).

    Returns:
        (horizon, Q // 2), the outermost interval first. Negative is narrower.

    Raises:
        ValueError: At some step there are too few windows to promise the outermost interval.

    Example:
        >>> truth = np.array([[1.0], [2.0], [3.0], [4.0]])
        >>> widenings(truth, np.zeros((4, 1, 2)), (0.2, 0.8))
        array([[3.]])
    """
    check_symmetric(levels)
    pairs = len(levels) // 2
    low, high = quantiles[..., :pairs], quantiles[..., ::-1][..., :pairs]
    error = np.maximum(low - truth[..., None], truth[..., None] - high)
    error = np.sort(error, axis=0)  # what is not known last
    count = (~np.isnan(truth)).sum(0)
    wider = np.empty(error.shape[1:])
    for pair in range(pairs):
        share = 1 - 2 * levels[pair]
        rank = np.array([math.ceil((n + 1) * share - 1e-9) for n in count])
        if (rank > count).any():
            raise ValueError(
                f"conformal: {count.min()} calibration windows cannot promise the interval from "
                f"{levels[pair]:g} to {levels[-1 - pair]:g}, it takes "
                f"{math.ceil(share / (1 - share) - 1e-9)}: raise calibration_share"
            )
        wider[:, pair] = error[rank - 1, np.arange(len(rank)), pair]
    return wider


def widened(quantiles: np.ndarray, wider: np.ndarray) -> np.ndarray:
    """Widen the intervals of forecasts (..., horizon, Q), from the innermost to the outermost.

    The middle stays, and each interval holds what lies inside of it, so that quantiles never cross;
    an interval only ever becomes wider by that.

    Example:
        >>> widened(np.array([[1.0, 2.0, 3.0]]), np.array([[0.5]])).tolist()
        [[0.5, 2.0, 3.5]]
    """
    pairs = wider.shape[-1]
    result = quantiles.copy()
    middle = quantiles[..., [pairs, -1 - pairs]].mean(-1)
    low, high = middle, middle
    for pair in reversed(range(pairs)):
        low = np.minimum(low, quantiles[..., pair] - wider[..., pair])
        high = np.maximum(high, quantiles[..., -1 - pair] + wider[..., pair])
        result[..., pair], result[..., -1 - pair] = low, high
    return result
