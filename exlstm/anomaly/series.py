"""Series as a user has them, as arrays: (T, C) in float64, NaN where a value is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def as_series(X: Any) -> Array:
    """Read a series: (T,), (T, C), or a DataFrame or Series of numbers.

    Raises:
        ValueError: It is none of these, has no step, or holds an infinite number.

    Example:
        >>> as_series([1, 2, None]).ravel().tolist()
        [1.0, 2.0, nan]
    """
    if hasattr(X, "dtypes") and hasattr(X, "to_numpy"):
        _check_columns(X)
        # A frame's own missing value, pandas.NA, is no number.
        X = X.to_numpy(dtype=float, na_value=np.nan)
    array = np.asarray(X)
    if array.dtype.kind in "cSUMmV":
        raise ValueError(f"X must be numbers, got an array of {array.dtype}")
    try:
        array = array.astype(np.float64, order="C")
    except (TypeError, ValueError) as error:
        raise ValueError(f"X must be numbers: {error}") from None
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"X must be (T,) or (T, C) with at least one step, got shape {np.shape(X)}"
        )
    if np.isinf(array).any():
        step, channel = np.argwhere(np.isinf(array))[0]
        raise ValueError(f"X is infinite at step {step}, channel {channel}; NaN is a missing value")
    return array


def exponential_average(values: Array, half_life: float, before: float) -> Array:
    """The causal average in which a value counts half after `half_life` steps; NaN moves nothing.

    Args:
        values: (T,).
        half_life: At least 0; 0 keeps the values.
        before: The average before the first step.

    Example:
        >>> exponential_average(np.array([8.0, np.nan, 0.0]), 1, before=0.0).tolist()
        [4.0, 4.0, 2.0]
    """
    kept = 0.5 ** (1 / half_life) if half_life else 0.0
    averages = np.empty_like(values)
    for step, value in enumerate(values):
        if not np.isnan(value):
            before = kept * before + (1 - kept) * value
        averages[step] = before
    return averages


def names_of(X: Any) -> list[str] | None:
    """The names of a DataFrame's columns; `None` of all else."""
    columns = getattr(X, "columns", None)
    return None if columns is None else [str(name) for name in columns]


def _check_columns(X: Any) -> None:
    kinds = X.dtypes.items() if hasattr(X, "columns") else [(X.name, X.dtype)]
    for name, kind in kinds:
        if kind.kind not in "fiub":
            raise ValueError(
                f"column {name!r} is {kind}, not numbers: leave it out, or make it the index"
            )
