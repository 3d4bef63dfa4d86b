"""Many series on one regular grid of time: what every input becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from exlstm.forecast.grid import (
    Frequency,
    Timestamp,
    after,
    check_frequency,
    infer_frequency,
    positions,
    until,
)
from exlstm.forecast.rows import Covariates, Rows, plain, read_rows

_NONE = Covariates()


@dataclass(frozen=True)
class Panel:
    """Series of any lengths, each on the steps of one frequency without a gap.

    Attributes:
        ids: Their names.
        ends: The timestamp of the last step of each.
        freq: From step to step.
        values: Of each series (n, 1 + P + F): target, past covariates, covariates known ahead; NaN
            is missing.
        static: What describes each series.
    """

    ids: list[Any]
    ends: list[Timestamp]
    freq: Frequency
    values: list[np.ndarray]
    static: list[tuple[Any, ...]]

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each series."""
        return np.array([len(values) for values in self.values])

    def last(self, steps: int) -> Panel:
        """Keep the last steps of each series."""
        return replace(self, values=[values[-steps:] for values in self.values])

    def without_last(self, steps: int) -> Panel:
        """Take the last steps of each series away; a series that is not longer goes whole."""
        kept = [i for i, values in enumerate(self.values) if len(values) > steps]
        panel = self.only(kept)
        ends = [plain(until(end, steps + 1, self.freq)[0]) for end in panel.ends]
        return replace(panel, ends=ends, values=[v[: len(v) - steps] for v in panel.values])

    def only(self, series: Sequence[int]) -> Panel:
        """Keep these series, by their place."""
        lists = {
            name: [getattr(self, name)[i] for i in series]
            for name in ("ids", "ends", "values", "static")
        }
        return replace(self, **lists)

    def of(self, ids: Sequence[object]) -> Panel:
        """Keep these series, by their names."""
        wanted = set(ids)
        return self.only([i for i, id in enumerate(self.ids) if id in wanted])

    def times_ahead(self, series: int, horizon: int) -> pd.Index:
        """Return the timestamps of the steps that follow a series."""
        return after(self.ends[series], horizon, self.freq)

    def times(self, series: int) -> pd.Index:
        """Return the timestamps of a series."""
        return until(self.ends[series], len(self.values[series]), self.freq)


def panel_from_frame(
    frame: pd.DataFrame, covariates: Covariates = _NONE, freq: object = None
) -> Panel:
    """Lay a long frame out on its grid; missing rows become missing values.

    Args:
        frame: Columns `unique_id, ds, y` and those of the covariates. Rows in any order.
        covariates: Their columns.
        freq: From step to step. `None` is found out: every series must say the same.

    Raises:
        ValueError: As `read_rows`; the frequency cannot be found out or is not one; a timestamp is
            not on the grid; a series has no value.

    Example:
        >>> frame = pd.DataFrame({"unique_id": "a", "ds": [1, 2, 4], "y": [1.0, 2.0, 4.0]})
        >>> panel = panel_from_frame(frame)
        >>> panel.values[0][:, 0].tolist(), panel.freq, panel.ends
        ([1.0, 2.0, nan, 4.0], 1, [4])
    """
    rows = read_rows(frame, ("y", *covariates.past, *covariates.future), covariates.static)
    freq = _common_frequency(rows) if freq is None else check_frequency(freq)
    dated = isinstance(rows[0].times, pd.DatetimeIndex)
    if dated == isinstance(freq, int):
        kind = "dates, give an offset of pandas" if dated else "integers, give their step"
        raise ValueError(f"freq: {freq!r} does not fit ds: these are {kind}")
    values = []
    for one in rows:
        name = f"series {one.id!r}"
        steps = positions(one.times, freq, name)
        values.append(_laid_out(one.values, steps, int(steps[-1]) + 1))
        if np.isnan(one.values[:, 0]).all():
            raise ValueError(f"{name} has no value: all of y is missing; leave it out")
    return Panel(
        [one.id for one in rows],
        [plain(one.times[-1]) for one in rows],
        freq,
        values,
        [one.static for one in rows],
    )


def panel_from_arrays(arrays: Any) -> Panel:
    """Take a series (time,), series of one length (series, time), or a list of (time,).

    The steps are 0, 1, ... and the ids 0, 1, ...; NaN is missing, also at the end.

    Raises:
        ValueError: The array is of another shape or not of numbers, or a series has no value.

    Example:
        >>> panel_from_arrays([[1.0, 2.0, 3.0], [4.0]]).lengths.tolist()
        [3, 1]
    """
    if isinstance(arrays, np.ndarray):
        if arrays.ndim not in (1, 2):
            raise ValueError(f"an array must be (time,) or (series, time), got {arrays.shape}")
        arrays = arrays[None] if arrays.ndim == 1 else arrays
    if len(arrays) == 0:
        raise ValueError("there is no series")
    values = [numbers(one, f"series {i}")[:, None] for i, one in enumerate(arrays)]
    for i, one in enumerate(values):
        if np.isnan(one).all():
            raise ValueError(f"series {i} has no value; leave it out")
    count = len(values)
    return Panel(list(range(count)), [len(v) - 1 for v in values], 1, values, [()] * count)


def numbers(series: Any, name: str) -> np.ndarray:
    """Return a series (time,) as float64.

    Raises:
        ValueError: It is not that, or a number is infinite.
    """
    array = np.asarray(series)
    if array.ndim != 1 or array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be (time,) of numbers, got {array.shape} of {array.dtype}")
    if np.isinf(array).any():
        raise ValueError(f"{name} is infinite at step {int(np.isinf(array).argmax())}")
    return array.astype(np.float64)


def steps_after(
    panel: Panel, frame: pd.DataFrame, columns: tuple[str, ...]
) -> dict[int, tuple[np.ndarray, pd.Index]]:
    """Lay rows that follow the panel out on its grid.

    Returns:
        Of each series in the frame, by its place in the panel: values (n, columns), from the step
        after its end to the last row, NaN where there is none; and the timestamps of its rows.

    Raises:
        ValueError: As `read_rows`; a series is not in the panel; a row is not after its end or not
            on its grid.
    """
    places = {id: i for i, id in enumerate(panel.ids)}
    found = {}
    for rows in read_rows(frame, columns):
        name = f"series {rows.id!r}"
        if rows.id not in places:
            raise ValueError(f"{name} is not known; known are {some(panel.ids)}")
        series = places[rows.id]
        end = panel.ends[series]
        same_kind(rows.times, panel)
        if rows.times[0] <= end:
            raise ValueError(
                f"{name}: {rows.times[0]} does not follow {end}, where the history ends"
            )
        joined = rows.times.insert(0, end)
        steps = positions(joined, panel.freq, name)[1:] - 1
        found[series] = (_laid_out(rows.values, steps, int(steps[-1]) + 1), rows.times)
    return found


def same_kind(times: pd.Index, panel: Panel) -> None:
    """Check that timestamps can be compared with those of the panel.

    Raises:
        ValueError: They are dates and the panel's are integers, or the other way round, or one
            has a time zone.
    """
    kinds = [
        "integers"
        if not isinstance(time, pd.Timestamp)
        else f"dates in {time.tz}"
        if time.tz is not None
        else "dates without a time zone"
        for time in (times[0], panel.ends[0])
    ]
    if kinds[0] != kinds[1]:
        raise ValueError(f"ds: these are {kinds[0]}, those of the history are {kinds[1]}")


def some(names: Sequence[object], most: int = 5) -> str:
    """Name a few of many.

    Example:
        >>> some(["a", "b", "c"], most=2)
        "'a', 'b', ... (3)"
    """
    text = ", ".join(repr(name) for name in names[:most])
    return text if len(names) <= most else f"{text}, ... ({len(names)})"


def _laid_out(values: np.ndarray, steps: np.ndarray, length: int) -> np.ndarray:
    grid = np.full((length, values.shape[1]), np.nan)
    grid[steps] = values
    return grid


def _common_frequency(rows: list[Rows]) -> Frequency:
    found: dict[Frequency, object] = {}
    for one in rows:
        freq = infer_frequency(one.times)
        if freq is not None:
            found.setdefault(freq, one.id)
    if not found:
        raise ValueError("freq: one row a series does not say it, give freq=")
    if len(found) > 1:
        (first, one), (second, other) = list(found.items())[:2]
        raise ValueError(
            f"mixed frequencies: series {one!r} is every {first}, {other!r} every {second}; "
            "give freq= if rows are missing"
        )
    return next(iter(found))
