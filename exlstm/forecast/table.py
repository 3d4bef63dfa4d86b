"""CSV files of series, long or wide, as long data frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api import types

_TIMES = ("ds", "date", "time", "timestamp", "datetime")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a file are what; `None` and () are found by their names.

    Attributes:
        id: Of the series; a file without one is wide.
        time: Of the timestamps.
        values: Of the numbers: one in a long file, one for each series in a wide one.
        static: One value a series; in long files only.
        over_time: Other covariates; in a wide file each series has them.
        time_format: Of dates that are not ISO 8601, as in `strptime`.
    """

    id: str | None = None
    time: str | None = None
    values: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    over_time: tuple[str, ...] = ()
    time_format: str | None = None


def read_table(path: Path, columns: Columns, *, has_values: bool = True) -> pd.DataFrame:
    """Read a file as a frame `unique_id, ds, y` with covariates.

    Long, with a row for each series and step, where there is a column `unique_id` or one is named;
    else wide, with a row for each step and a column of numbers for each series.

    Args:
        path: A CSV file with a header.
        columns: What its columns are.
        has_values: Whether there is something to forecast in it, or covariates alone; these are
            the same for all series if the file is wide, and come without `unique_id`.

    Raises:
        ValueError: It cannot be read, a column is missing or not of its kind, or dates could be
            read in two ways.
    """
    try:
        table: Any = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV: {str(error).strip()}") from None
    id = columns.id or ("unique_id" if "unique_id" in table.columns else None)
    time = columns.time or next(
        (name for name in table.columns if str(name).lower() in _TIMES), None
    )
    if time is None:
        raise ValueError(
            f"{path} has no column called {', '.join(_TIMES)}: name that of time with "
            f"--time-column, one of {', '.join(map(str, table.columns))}"
        )
    for name in (id, time, *columns.values, *columns.static, *columns.over_time):
        if name is not None and name not in table.columns:
            raise ValueError(f"{path} has no column {name!r}, but {', '.join(table.columns)}")
    table["ds"] = _times(table[time], columns.time_format)
    shared = ["ds", *columns.static, *columns.over_time]
    if not has_values:
        named = table.rename(columns={id: "unique_id"})
        return named[[*(["unique_id"] if id else []), *shared]]
    if id is not None:
        values = columns.values or ("y",)
        if len(values) != 1 or values[0] not in table.columns:
            raise ValueError(
                f"{path} is long, with a row a series and step: name one column with "
                f"--value-columns, of {', '.join(table.columns)}"
            )
        named = table.rename(columns={id: "unique_id", values[0]: "y"})
        return named[["unique_id", "y", *shared]]
    if columns.static:
        raise ValueError(f"{path} is wide, it has no static columns: name that of ids, --id-column")
    values = columns.values or tuple(
        name for name in table.columns if name not in (time, "ds", *columns.over_time)
    )
    text = [name for name in values if not types.is_numeric_dtype(table[name])]
    if text:
        raise ValueError(
            f"column {text[0]!r} is not of numbers: name the series with --value-columns, or their "
            "ids with --id-column"
        )
    return table.melt(shared, values, var_name="unique_id", value_name="y")


def _times(column: pd.Series, time_format: str | None) -> pd.Series:
    if types.is_integer_dtype(column) and time_format is None:
        return column
    try:
        return pd.to_datetime(column, format=time_format or "ISO8601")
    except (ValueError, TypeError) as error:
        reason = str(error).split(". ")[0].splitlines()[0]
        raise ValueError(
            f"column {column.name!r} holds dates that are not as 2024-01-31 12:00, say how with "
            f"--time-format, such as '%d/%m/%Y': {reason}"
        ) from None
