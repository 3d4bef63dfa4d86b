"""What can be classified, brought into one form: records side by side, with their lengths."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Record:
    """One sequence: numbers, event codes or both, at every step or at times.

    Attributes:
        values: (T,) or (T, C) numbers of C channels; NaN is a missing one.
        times: (T,) numbers or dates that never go backwards; `None` is one step after another.
        codes: (T,) whole numbers or strings; `None` or NaN in it is a step without a code.
    """

    values: Any = None
    times: Any = None
    codes: Any = None


def records_from_frame(
    frame: pd.DataFrame,
    *,
    id: str = "id",
    time: str | None = "time",
    code: str | None = None,
    channels: Sequence[str] | None = None,
) -> dict[Hashable, Record]:
    """Records from a long table: a row a measurement or event.

    Args:
        frame: Its rows of one record need not stand together, but in the order of their times.
        id: Column that says which record a row belongs to.
        time: Column with numbers or dates; `None` is one step after another.
        code: Column with the events' codes, if there is one.
        channels: Columns with numbers; `None` is all the others.

    Returns:
        A record for each id, in the order in which they first appear.

    Raises:
        ValueError: A column is missing, an id is missing, or nothing is left to read.

    Example:
        >>> import pandas as pd
        >>> rows = [("a", 0.0, 1.5), ("b", 0.0, 2.0), ("a", 0.7, 1.0)]
        >>> records = records_from_frame(pd.DataFrame(rows, columns=["id", "time", "lactate"]))
        >>> list(records), records["a"].times, records["a"].values[:, 0]
        (['a', 'b'], array([0. , 0.7]), array([1.5, 1. ]))
    """
    special = [name for name in (id, time, code) if name is not None]
    if channels is None:
        channels = [name for name in frame.columns if name not in special]
    for name in [*special, *channels]:
        if name not in frame.columns:
            raise ValueError(f"frame has no column {name!r}; it has {list(frame.columns)}")
    if not channels and code is None:
        raise ValueError("frame has neither channels nor a column of codes to read")
    if frame[id].hasnans:
        raise ValueError(f"column {id!r} has missing ids")
    return {
        key: Record(
            values=rows[list(channels)].to_numpy() if channels else None,
            times=None if time is None else rows[time].to_numpy(),
            codes=None if code is None else rows[code].to_numpy(dtype=object),
        )
        for key, rows in frame.groupby(id, sort=False)
    }


@dataclass(frozen=True, eq=False)
class Padded:
    """N records side by side, filled up at their ends.

    Attributes:
        lengths: (N,) steps of each.
        values: (N, T, C) float64, NaN where missing and behind the end, or `None`.
        times: (N, T) float64, dates as seconds, or `None`.
        codes: (N, T) objects, `None` where there is none, or `None`.
    """

    lengths: NDArray[np.int64]
    values: NDArray[np.float64] | None
    times: NDArray[np.float64] | None
    codes: NDArray[np.object_] | None

    def __len__(self) -> int:
        return len(self.lengths)


def pad(X: Any) -> Padded:
    """Bring any input of the classifier into one form.

    Args:
        X: An array (N, T) or (N, T, C), or a list of `Record` or of arrays (T,) or (T, C).

    Raises:
        ValueError: It is something else, or a record is empty, has no value at all, has an infinite
            one or times that go backwards, or differs from the others in what it has. The message
            names the record by its number.
    """
    if isinstance(X, np.ndarray) and X.ndim in (2, 3) and X.dtype != object:
        X = list(X)
    is_array = isinstance(X, np.ndarray)
    if (is_array and X.ndim != 1) or not (is_array or isinstance(X, list | tuple)):
        raise ValueError(
            "X must be an array (N, T) or (N, T, C), or a list of arrays or of Record, "
            f"got {type(X).__name__}{f' of shape {X.shape}' if is_array else ''}"
        )
    if not len(X):
        raise ValueError("X holds no record, at least 1 is needed")
    rows = [_checked(one, f"record {number}") for number, one in enumerate(X)]
    forms = [_form(row) for row in rows]
    for number, form in enumerate(forms):
        if form != forms[0]:
            raise ValueError(f"record 0 has {forms[0]}, but record {number} has {form}")
    lengths = np.array([_length(row) for row in rows])
    shape = (len(rows), int(lengths.max()))
    values = times = codes = None
    if rows[0].values is not None:
        values = np.full((*shape, rows[0].values.shape[1]), np.nan)
    if rows[0].times is not None:
        times = np.zeros(shape)
    if rows[0].codes is not None:
        codes = np.full(shape, None, dtype=object)
    for number, row in enumerate(rows):
        for into, part in ((values, row.values), (times, row.times), (codes, row.codes)):
            if into is not None:
                into[number, : len(part)] = part
    return Padded(lengths, values, times, codes)


def describe(num_channels: int, timed: bool, coded: bool) -> str:
    """What a record has, in words."""
    parts = [f"{num_channels} channel{'s' * (num_channels != 1)}"] if num_channels else []
    return " and ".join([*parts, *["times"] * timed, *["codes"] * coded])


def _form(row: Record) -> str:
    num_channels = 0 if row.values is None else row.values.shape[1]
    return describe(num_channels, row.times is not None, row.codes is not None)


def _length(row: Record) -> int:
    return len(row.codes if row.values is None else row.values)


def _checked(one: Any, name: str) -> Record:
    """The record's parts as arrays of one length."""
    one = one if isinstance(one, Record) else Record(values=one)
    values = None if one.values is None else _values(one.values, name)
    codes = None if one.codes is None else _codes(one.codes, name)
    if values is None and codes is None:
        raise ValueError(f"{name} has neither values nor codes")
    times = None if one.times is None else _times(one.times, name)
    row = Record(values, times, codes)
    for part, found in (("codes", codes), ("times", times)):
        if found is not None and len(found) != _length(row):
            raise ValueError(f"{name} has {_length(row)} steps but {len(found)} {part}")
    if not _length(row):
        raise ValueError(f"{name} is empty, at least 1 step is needed")
    if codes is None and values is not None and np.isnan(values).all():
        raise ValueError(f"{name} has no value: all {values.size} are NaN")
    return row


def _values(values: Any, name: str) -> NDArray[np.float64]:
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(f"{name} is ragged: it must be (T,) or (T, C)") from None
    if array.dtype == object:  # a table's columns of numbers and pandas' own missing values
        array = np.array([np.nan if _missing(one) else one for one in array.flat]).reshape(
            array.shape
        )
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold numbers, got {array.dtype}")
    if array.ndim not in (1, 2) or 0 in array.shape[1:]:
        raise ValueError(f"{name} must be (T,) or (T, C), got {array.shape}")
    array = array.astype(np.float64)
    if np.isinf(array).any():
        raise ValueError(f"{name} has an infinite value; a missing one is NaN")
    return array[:, None] if array.ndim == 1 else array


def _times(times: Any, name: str) -> NDArray[np.float64]:
    array = np.asarray(times)
    if array.dtype.kind in "mM":
        unit = "datetime64[ns]" if array.dtype.kind == "M" else "timedelta64[ns]"
        missing = np.isnat(array)
        array = np.where(missing, np.nan, array.astype(unit).astype(np.int64) / 1e9)
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise ValueError(
            f"times of {name} must be (T,) numbers or dates, got {array.dtype} {array.shape}"
        )
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"times of {name} must be finite, got {array[~np.isfinite(array)][0]}")
    backwards = np.flatnonzero(np.diff(array) < 0)
    if len(backwards):
        step = int(backwards[0]) + 1
        raise ValueError(
            f"times of {name} go backwards at step {step}: {array[step]:g} after "
            f"{array[step - 1]:g}"
        )
    return array


def _codes(codes: Any, name: str) -> NDArray[np.object_]:
    array = np.asarray(codes)
    if array.ndim != 1:
        raise ValueError(f"codes of {name} must be (T,), got {array.shape}")
    found = np.empty(len(array), dtype=object)
    for step, one in enumerate(array.tolist()):
        if _missing(one):
            continue
        if isinstance(one, float) and one.is_integer():  # a table's whole numbers beside NaN
            one = int(one)
        if not isinstance(one, int | str) or isinstance(one, bool):
            raise ValueError(f"codes of {name} must be whole numbers or strings, got {one!r}")
        found[step] = one
    return found


def _missing(one: Any) -> bool:
    """None, NaN, and pandas' NA, whose comparisons are neither true nor false."""
    return one is None or type(one).__name__ == "NAType" or one != one
