"""Frequencies and the steps of timestamps."""

import numpy as np
import pandas as pd
import pytest

from exlstm.forecast.grid import after, check_frequency, infer_frequency, positions, until

FREQUENCIES = ["15min", "h", "36h", "D", "2D", "7D", "B", "MS", "ME", "3ME", "BMS", "BME", "12MS"]


@pytest.mark.parametrize("freq", FREQUENCIES)
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_what_is_spaced_by_a_frequency_has_it(freq, zone):
    """Over both changes of the clock in Berlin."""
    times = pd.date_range("2024-01-01", periods=400, freq=freq, tz=zone)
    if freq not in ("36h",) or zone is None:
        assert infer_frequency(times) == freq
    assert np.array_equal(positions(times, freq, "a"), np.arange(400))
    assert after(times[9], 3, freq).tolist() == times[10:13].tolist()
    assert until(times[9], 3, freq).tolist() == times[7:10].tolist()


@pytest.mark.parametrize("freq", FREQUENCIES)
def test_missing_rows_change_nothing(freq):
    times = pd.date_range("2024-01-01", periods=400, freq=freq)
    kept = np.random.default_rng(0).random(400) < 0.7
    kept[:2] = True
    assert infer_frequency(times[kept]) == freq
    assert np.array_equal(positions(times[kept], freq, "a"), np.flatnonzero(kept))


def test_days_are_business_days_only_over_a_weekend():
    week = pd.date_range("2024-01-01", periods=5, freq="D")  # from a Monday
    assert infer_frequency(week[[0, 1, 3]]) == "D"
    assert infer_frequency(week.append(week[:1] + pd.Timedelta(days=7))) == "B"


def test_integers():
    assert infer_frequency(pd.Index([10, 13, 22])) == 3
    assert positions(pd.Index([10, 13, 22]), 3, "a").tolist() == [0, 1, 4]
    with pytest.raises(ValueError, match="a: 14 is not on the grid that begins at 10, every 3"):
        positions(pd.Index([10, 13, 14]), 3, "a")


def test_what_lies_between_two_steps_is_named():
    times = pd.DatetimeIndex(["2024-01-01 00:00", "2024-01-01 01:00", "2024-01-01 02:30"])
    with pytest.raises(ValueError, match=r"a: 2024-01-01 02:30:00 is not on the grid"):
        positions(times, "h", "a")
    with pytest.raises(ValueError, match=r"2024-01-02 00:00:00 is not on the grid"):
        positions(pd.date_range("2024-01-02", periods=3, freq="D"), "MS", "a")


@pytest.mark.parametrize("freq", ["s", 1])
def test_a_grid_with_hardly_a_row_is_refused(freq):
    times = pd.Index([0, 10_000, 20_000])
    times = times if freq == 1 else pd.Timestamp("2024-01-01") + pd.to_timedelta(times, unit="s")
    with pytest.raises(ValueError, match="nearly all steps of every"):
        positions(times, freq, "a")


@pytest.mark.parametrize("freq", [0, -1, True, 1.5, "nonsense", "-1h", [1]])
def test_what_is_no_frequency_is_named(freq):
    with pytest.raises(ValueError, match=r"freq: .* is not possible"):
        check_frequency(freq)
