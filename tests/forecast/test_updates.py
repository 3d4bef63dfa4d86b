"""Streams: the state moves on without a refit."""

import copy

import numpy as np
import pandas as pd
import pytest
from small_forecasts import HOUR, SMALL, same, waves

from exlstm.forecast import XLSTMForecaster


def test_an_updated_state_forecasts_as_the_whole_history(fitted, frame):
    new = waves(3, 90).merge(frame[["unique_id", "ds"]], how="left", indicator=True)
    new = new[new.pop("_merge") == "left_only"].drop(index=[83, 85], errors="ignore")
    whole = pd.concat([frame, new])
    at_once = copy.deepcopy(fitted).update(new)
    step_by_step = copy.deepcopy(fitted)
    for _, rows in new.groupby("ds"):
        step_by_step.update(rows)
    same(at_once.predict(), fitted.predict(whole))
    same(step_by_step.predict(), fitted.predict(whole))
    assert at_once.history_.lengths.tolist() == [24, 24, 24]


def test_updates_of_arrays(frame):
    series = np.stack([part.to_numpy()[:80] for _, part in frame.groupby("unique_id")["y"]])
    many = XLSTMForecaster(**SMALL).fit(series[:, :70])
    whole = many.predict(series)
    assert np.array_equal(many.update(series[:, 70:71]).update(series[:, 71:]).predict(), whole)
    with pytest.raises(ValueError, match="update: 2 series, in fit there were 3"):
        many.update(series[:2])
    with pytest.raises(ValueError, match=r"update: give \(series, time\) or a list of \(time,\)"):
        many.update([1.0])
    with pytest.raises(ValueError, match="update: give arrays, as in fit, not DataFrame"):
        many.update(frame)


def test_an_update_that_does_not_fit_changes_nothing(fitted, frame):
    state = fitted.history_
    good = frame.groupby("unique_id").tail(1).assign(ds=lambda rows: rows["ds"] + HOUR)
    for bad, message in (
        (good.assign(unique_id=["s0", "s1", "new"]), "series 'new' is not known"),
        (good.assign(ds=good["ds"] - HOUR), "does not follow"),
        (good.assign(ds=good["ds"] + HOUR / 4), "is not on the grid"),
        (np.ones((3, 1)), "update: give a frame, as in fit, not ndarray"),
    ):
        with pytest.raises(ValueError, match=message):
            fitted.update(bad)
    assert fitted.history_ is state
