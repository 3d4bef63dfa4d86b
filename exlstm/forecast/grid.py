"""Regular grids of time: how far apart the steps of a series are, and which step a timestamp is.

A frequency is a number of units for integer timestamps, and the name of a pandas offset for dates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from pandas.tseries.frequencies import to_offset

Frequency = int | str
Timestamp = Any
"""An int or a `pandas.Timestamp`."""

SPARSE = 100
"""A series with one row in more than this many steps was given the wrong frequency."""

_PERIODS = ("MS", "ME", "BMS", "BME")
_SEASONS = {"h": 24, "D": 7, "B": 5, "W": 52, "MS": 12, "ME": 12, "BMS": 12, "BME": 12}
_SEASONS |= {"QS": 4, "QE": 4, "BQS": 4, "BQE": 4}
_DAY = pd.Timedelta(days=1)


def check_frequency(freq: object) -> Frequency:
    """Return a frequency in its one spelling.

    Raises:
        ValueError: It is neither a number of units above 0 nor the name of a pandas offset.

    Example:
        >>> check_frequency(1), check_frequency("24h"), check_frequency("W")
        (1, 'D', 'W-SUN')
    """
    if isinstance(freq, int | np.integer) and not isinstance(freq, bool) and freq >= 1:
        return int(freq)
    if isinstance(freq, str | pd.DateOffset):
        try:
            offset = to_offset(freq)
        except ValueError:
            offset = None
        if offset is not None and offset.n >= 1:
            if isinstance(offset, pd.offsets.Tick) and offset.nanos % _DAY.value == 0:
                return _days(offset.nanos // _DAY.value)
            return offset.freqstr
    raise ValueError(
        f"freq: {freq!r} is not possible, give an offset of pandas such as 'h', '15min' or 'MS', "
        "or for integer ds the step, such as 1"
    )


def infer_frequency(times: pd.Index) -> Frequency | None:
    """Return how far apart sorted timestamps are where no row is missing; `None` for a single one.

    Integers: the smallest difference. Dates: periods of months where all are the first or last
    day, or business day, of one; business days where none of them is in a weekend that they span;
    else the smallest difference.

    Example:
        >>> infer_frequency(pd.Index([3, 5, 9])), infer_frequency(pd.Index([3]))
        (2, None)
        >>> infer_frequency(pd.DatetimeIndex(["2024-01-31", "2024-02-29", "2024-05-31"]))
        'ME'
    """
    if len(times) < 2:
        return None
    if not isinstance(times, pd.DatetimeIndex):
        return int(np.diff(times.to_numpy()).min())
    step: Any = pd.Timedelta(np.diff(times.asi8).min(), unit=times.unit)
    wall = times
    if times.tz is not None and step > _DAY - pd.Timedelta(hours=3):  # days that a clock's change
        wall = times.tz_localize(None)  # makes shorter or longer are days
        step = pd.Timedelta(np.diff(wall.asi8).min(), unit=wall.unit)
    if step >= 28 * _DAY:
        for name in _PERIODS:
            offset = to_offset(name)
            if all(offset.is_on_offset(time) for time in wall):
                months = int(np.diff(wall.year * 12 + wall.month).min())
                return name if months == 1 else f"{months}{name}"
    if step % _DAY == pd.Timedelta(0):
        days = step // _DAY
        weekday = wall.day_of_week.to_numpy()
        if days == 1 and (weekday < 5).all() and (np.diff(weekday) < 0).any():
            return "B"
        return _days(days)
    return to_offset(step).freqstr


def _days(days: int) -> str:
    return "D" if days == 1 else f"{days}D"


def positions(times: pd.Index, freq: Frequency, name: str) -> np.ndarray:
    """Return which step each of sorted timestamps is, the first being step 0.

    Raises:
        ValueError: One lies between two steps; or nearly all steps would be missing.
    """
    first, last = times[0], times[-1]
    if isinstance(freq, int):
        steps, off = np.divmod(times.to_numpy() - first, freq)
        spans = int(steps[-1]) + 1
    else:
        two = _range(first, 2, freq)
        spans = (last - first) / (two[1] - two[0]) + 1
        if spans <= SPARSE * (len(times) + 1):
            steps = pd.date_range(first, last, freq=to_offset(freq)).get_indexer(times)
            off = steps < 0
        else:
            steps, off = np.zeros(len(times), int), np.array([two[0] != first])
    if off.any():
        raise ValueError(
            f"{name}: {times[off.argmax()]} is not on the grid that begins at {first}, every "
            f"{freq}: mixed frequencies? Rows may be missing, but not lie between two steps"
        )
    if spans > SPARSE * (len(times) + 1):
        raise ValueError(
            f"{name}: {len(times)} rows from {first} to {last} leave nearly all steps of every "
            f"{freq} missing: give freq= the step of these data"
        )
    return np.asarray(steps)


def after(end: Timestamp, count: int, freq: Frequency) -> pd.Index:
    """Return the `count` timestamps that follow `end`.

    Example:
        >>> after(7, 3, 2).tolist()
        [9, 11, 13]
    """
    if isinstance(freq, int):
        return pd.Index(end + freq * np.arange(1, count + 1))
    return _range(end, count + 1, freq)[1:]


def until(end: Timestamp, count: int, freq: Frequency) -> pd.Index:
    """Return the `count` timestamps of which `end` is the last.

    Example:
        >>> [str(time.date()) for time in until(pd.Timestamp("2024-03-31"), 2, "ME")]
        ['2024-02-29', '2024-03-31']
    """
    if isinstance(freq, int):
        return pd.Index(end - freq * np.arange(count)[::-1])
    return pd.date_range(end=end, periods=count, freq=to_offset(freq))


def _range(start: pd.Timestamp, count: int, freq: str) -> pd.DatetimeIndex:
    return pd.date_range(start, periods=count, freq=to_offset(freq))


def season_of(freq: Frequency) -> int:
    """Return the usual number of steps of a season.

    A day for hours and what divides it, a week for days and business days, a year for weeks, months
    and quarters; 1, no season, for all else.

    Example:
        >>> [season_of(freq) for freq in ("h", "15min", "D", "W-SUN", "MS", "3MS", 1)]
        [24, 96, 7, 52, 12, 4, 1]
    """
    if isinstance(freq, int):
        return 1
    offset = to_offset(freq)
    if isinstance(offset, pd.offsets.Tick):
        return max(1, _DAY.value // offset.nanos)
    name = "W" if offset.n == 7 and freq == "7D" else offset.freqstr.lstrip("0123456789")
    count = 1 if name == "W" else offset.n
    season = _SEASONS.get(name.split("-")[0], 1)
    return season // count if season % count == 0 else 1
