"""Long data frames, checked: the rows of each series, in the order of time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api import types


class Covariates(NamedTuple):
    """Names of columns beside `unique_id, ds, y`: of a series, known up to now, known ahead."""

    static: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    future: tuple[str, ...] = ()


class Rows(NamedTuple):
    """Of one series: sorted timestamps and their numbers (n, columns)."""

    id: Any
    times: pd.Index
    values: np.ndarray
    static: tuple[Any, ...]


def read_rows(
    frame: pd.DataFrame, columns: tuple[str, ...], static: tuple[str, ...] = ()
) -> list[Rows]:
    """Split a long frame by `unique_id`, in the order in which the ids first appear.

    Rows may stand in any order: they are sorted by `ds`. Missing numbers are NaN.

    Args:
        frame: With `unique_id`, `ds` and the columns asked for; others are not looked at.
        columns: Of numbers, a column each in `Rows.values`.
        static: Columns that hold one value a series.

    Raises:
        ValueError: A column is missing or not of its kind, there is no row, a timestamp of a series
            is there twice, a number is infinite, or a static value is missing or changes.

    Example:
        >>> frame = pd.DataFrame({"unique_id": "a", "ds": [2, 1], "y": [20.0, 10.0]})
        >>> [(rows.id, rows.times.tolist(), rows.values.tolist()) for rows in
        ...  read_rows(frame, ("y",))]
        [('a', [1, 2], [[10.0], [20.0]])]
    """
    wanted = ("unique_id", "ds", *columns, *static)
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise ValueError(
            f"column {missing[0]!r} is missing: the frame has {', '.join(map(repr, frame.columns))}"
        )
    repeated = frame.columns[frame.columns.duplicated()]
    if set(repeated) & set(wanted):
        raise ValueError(f"column {repeated[0]!r} is there twice")
    if len(frame) == 0:
        raise ValueError("the frame has no rows")
    times = _times(frame["ds"])
    codes, ids = pd.factorize(frame["unique_id"])
    if (codes < 0).any():
        raise ValueError(f"unique_id is missing in row {int((codes < 0).argmax())}")
    values = np.empty((len(frame), len(columns)))
    for column, name in enumerate(columns):
        values[:, column] = _numbers(frame[name])
    order = np.lexsort((times.asi8 if isinstance(times, pd.DatetimeIndex) else times, codes))
    codes, times, values = codes[order], times[order], values[order]
    again = (codes[1:] == codes[:-1]) & (times[1:] == times[:-1])
    if again.any():
        at = int(again.argmax())
        raise ValueError(
            f"series {ids[codes[at]]!r}: {times[at]} is there twice; a timestamp has one row"
        )
    infinite = np.isinf(values)
    if infinite.any():
        row, column = np.argwhere(infinite)[0]
        raise ValueError(
            f"series {ids[codes[row]]!r}: {columns[column]} is infinite at {times[row]}; "
            "NaN is what is missing"
        )
    ends = np.searchsorted(codes, np.arange(len(ids)), side="right")
    begins = np.r_[0, ends[:-1]]
    described = [_static(frame[name].iloc[order], codes, ids, begins) for name in static]
    return [
        Rows(plain(ids[i]), times[a:b], values[a:b], tuple(column[i] for column in described))
        for i, (a, b) in enumerate(zip(begins, ends, strict=True))
    ]


def _times(ds: Any) -> pd.Index:
    if not (types.is_datetime64_any_dtype(ds) or types.is_integer_dtype(ds)):
        raise ValueError(
            f"ds is {ds.dtype}: it must be dates, as pandas.to_datetime gives them, or integers"
        )
    if ds.isna().any():
        raise ValueError(f"ds is missing in row {int(ds.isna().to_numpy().argmax())}")
    return pd.Index(ds) if types.is_datetime64_any_dtype(ds) else pd.Index(ds.to_numpy(np.int64))


def _numbers(column: Any) -> np.ndarray:
    if not types.is_numeric_dtype(column) or types.is_complex_dtype(column):
        raise ValueError(f"{column.name} is {column.dtype}: it must be numbers")
    return column.to_numpy(np.float64, na_value=np.nan)


def _static(column: Any, codes: np.ndarray, ids: Any, begins: np.ndarray) -> list[Any]:
    """The one value of each series, as Python holds it."""
    missing = column.isna().to_numpy()
    if missing.any():
        raise ValueError(f"series {ids[codes[missing.argmax()]]!r}: {column.name} is missing")
    numbers, _ = pd.factorize(column)
    changes = numbers != numbers[begins][codes]
    if changes.any():
        raise ValueError(
            f"series {ids[codes[changes.argmax()]]!r}: {column.name} changes, "
            "a static column has one value a series"
        )
    return [plain(column.iloc[begin]) for begin in begins]


def plain(value: Any) -> Any:
    """Return a number of numpy as one of Python."""
    return value.item() if isinstance(value, np.generic) else value
