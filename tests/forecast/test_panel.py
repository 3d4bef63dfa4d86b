"""Every input becomes a panel, or is refused in one line."""

import numpy as np
import pandas as pd
import pytest

from exlstm.forecast.panel import panel_from_arrays, panel_from_frame, steps_after
from exlstm.forecast.rows import Covariates

HOURS = pd.date_range("2024-01-01", periods=6, freq="h")


def one(**columns):
    given = {"unique_id": "a", "ds": HOURS, "y": np.arange(6.0)}
    return pd.DataFrame(given | columns)


def test_rows_in_any_order_are_the_same_panel():
    frame = pd.concat([one(), one(unique_id="b", y=np.arange(6.0, 12.0))])
    panel = panel_from_frame(frame)
    again = panel_from_frame(frame.iloc[[11, 3, 0, 5, 2, 1, 4, 8, 6, 10, 9, 7]])
    assert (panel.ids, again.ids) == (["a", "b"], ["b", "a"])
    for id in "ab":
        first, second = panel.of([id]), again.of([id])
        assert np.array_equal(first.values[0], second.values[0])
        assert first.ends == second.ends == [HOURS[-1]]


def test_missing_rows_and_values_are_nan():
    frame = one(y=[0, np.nan, 2, 3, 4, np.nan]).drop(index=3)
    panel = panel_from_frame(frame)
    assert np.array_equal(panel.values[0][:, 0], [0, np.nan, 2, np.nan, 4, np.nan], equal_nan=True)
    nullable = panel_from_frame(frame.convert_dtypes())
    assert np.array_equal(nullable.values[0], panel.values[0], equal_nan=True)


def test_the_input_is_not_changed():
    frame = one().iloc[::-1]
    before = frame.copy()
    panel = panel_from_frame(frame)
    panel.values[0][:] = 0
    pd.testing.assert_frame_equal(frame, before)
    array = np.arange(5.0)
    panel_from_arrays(array).values[0][:] = 0
    assert array.tolist() == [0, 1, 2, 3, 4]


def test_arrays():
    assert panel_from_arrays(np.arange(5)).lengths.tolist() == [5]
    assert panel_from_arrays(np.ones((2, 3))).lengths.tolist() == [3, 3]
    panel = panel_from_arrays([[1, 2], np.array([1.0, np.nan, 3.0], np.float32)])
    assert panel.lengths.tolist() == [2, 3]
    assert panel.ends == [1, 2]


def test_the_ends_of_a_panel():
    panel = panel_from_frame(pd.concat([one(), one(unique_id="b").head(2)]))
    cut = panel.without_last(2)
    assert cut.ids == ["a"]
    assert cut.ends == [HOURS[3]]
    assert cut.values[0][:, 0].tolist() == [0, 1, 2, 3]
    assert panel.times_ahead(0, 2).tolist() == [HOURS[-1] + pd.Timedelta(hours=k) for k in (1, 2)]
    assert panel.times(1).tolist() == HOURS[:2].tolist()


MISTAKES = {
    "ds is str: it must be dates": one(ds=HOURS.astype(str)),
    "ds is float64: it must be dates": one(ds=np.arange(6.0)),
    "ds is period": one(ds=HOURS.to_period("h")),
    "ds is missing in row 0": one(ds=[pd.NaT, *HOURS[1:]]),
    "y is str: it must be numbers": one(y="1.0"),
    "y is object: it must be numbers": one(y=pd.Series([1, "x", 2, 3, 4, 5], dtype=object)),
    "y is complex128: it must be numbers": one(y=1j),
    "series 'a': y is infinite at 2024-01-01 00:00:00": one(y=np.inf),
    "series 'a' has no value: all of y is missing": one(y=np.nan),
    "column 'y' is missing: the frame has 'unique_id', 'ds'": one().drop(columns="y"),
    "column 'y' is there twice": pd.concat([one(), one()[["y"]]], axis=1),
    "the frame has no rows": one().head(0),
    "unique_id is missing in row 2": one(unique_id=["a", "a", None, "a", "a", "a"]),
    "series 'a': 2024-01-01 01:00:00 is there twice": one(ds=[HOURS[1], *HOURS[1:]]),
    "series 'a': 2024-01-01 00:30:00 is not on the grid|is not on the grid": one(
        ds=[*HOURS[:5], HOURS[4] + pd.Timedelta("90min")]
    ),
    "mixed frequencies: series 'a' is every h, 'b' every D": pd.concat(
        [one(), one(unique_id="b", ds=pd.date_range("2024-01-01", periods=6, freq="D"))]
    ),
    "one row a series does not say it, give freq=": one().head(1),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_named(message):
    with pytest.raises(ValueError, match=message):
        panel_from_frame(MISTAKES[message])


@pytest.mark.parametrize(
    ("freq", "message"),
    [(1, "freq: 1 does not fit ds: these are dates"), ("x", "freq: 'x' is not possible")],
)
def test_a_frequency_that_does_not_fit_is_named(freq, message):
    with pytest.raises(ValueError, match=message):
        panel_from_frame(one(), freq=freq)
    with pytest.raises(ValueError, match="these are integers"):
        panel_from_frame(one(ds=range(6)), freq="h")


def test_a_given_frequency_lets_rows_be_missing():
    mixed = pd.concat([one(), one(unique_id="b").iloc[::3]])
    with pytest.raises(ValueError, match="mixed frequencies"):
        panel_from_frame(mixed)
    panel = panel_from_frame(mixed, freq="h")
    assert panel.lengths.tolist() == [6, 4]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (list("xxxxxy"), "series 'a': store changes"),
        ([None] * 6, "series 'a': store is missing"),
    ],
)
def test_a_static_column_has_one_value_a_series(column, message):
    with pytest.raises(ValueError, match=message):
        panel_from_frame(one(store=column), Covariates(static=("store",)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (np.ones((2, 2, 2)), r"\(time,\) or \(series, time\), got \(2, 2, 2\)"),
        ([["a", "b"]], r"series 0 must be \(time,\) of numbers"),
        ([[1.0], [[2.0]]], r"series 1 must be \(time,\) of numbers, got \(1, 1\)"),
        ([[1.0], [np.nan]], "series 1 has no value"),
        ([[1.0, np.inf]], "series 0 is infinite at step 1"),
        ([], "there is no series"),
    ],
)
def test_mistakes_in_arrays_are_named(arrays, message):
    with pytest.raises(ValueError, match=message):
        panel_from_arrays(arrays)


def test_what_follows_a_panel():
    panel = panel_from_frame(one())
    later = one(ds=HOURS + pd.Timedelta(hours=6)).drop(index=[0, 2])
    values, times = steps_after(panel, later, ("y",))[0]
    assert np.array_equal(values[:, 0], [np.nan, 1, np.nan, 3, 4, 5], equal_nan=True)
    assert times[-1] == HOURS[-1] + pd.Timedelta(hours=6)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (one(), "series 'a': 2024-01-01 00:00:00 does not follow 2024-01-01 05:00:00"),
        (one(unique_id="z"), "series 'z' is not known; known are 'a'"),
        (one(ds=HOURS + pd.Timedelta("6.5h")), "2024-01-01 06:30:00 is not on the grid"),
        (one(ds=range(6)), "these are integers, those of the history are dates"),
        (one(ds=HOURS.tz_localize("UTC")), "these are dates in UTC, those .* without a time zone"),
    ],
)
def test_what_does_not_follow_is_named(rows, message):
    with pytest.raises(ValueError, match=message):
        steps_after(panel_from_frame(one()), rows, ("y",))
