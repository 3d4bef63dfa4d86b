"""Forecasts and scores of the past do not know the future."""

import numpy as np
import pandas as pd
import pytest
from small_forecasts import HOUR, SMALL, same

from exlstm.forecast import XLSTMForecaster


def close(one, other):
    """Of batches of other sizes, whose sums are rounded otherwise."""
    pd.testing.assert_frame_equal(one, other, rtol=1e-4, atol=1e-5)


def test_a_forecast_reads_only_what_is_before(fitted, frame):
    """Nor does one series depend on another."""
    before = frame[frame["ds"] < frame["ds"].min() + 60 * HOUR]
    alone = fitted.predict(before[before["unique_id"] == "s1"])
    together = fitted.predict(before)
    close(alone, together[together["unique_id"] == "s1"].reset_index(drop=True))
    history = fitted.predict(before.groupby("unique_id").tail(24))
    same(history, fitted.predict(before))


def test_cross_validation_of_a_prefix_does_not_change_with_the_suffix(frame):
    """Forecasts and scores of an origin see nothing of what comes after its horizon."""
    forecaster = XLSTMForecaster(**SMALL)
    later = frame.groupby("unique_id").cumcount(ascending=False) < 4
    changed = frame.assign(y=frame["y"].where(~later, 1e3 + 7 * frame["y"]))
    one, other = (forecaster.cross_validate(each, windows=2) for each in (frame, changed))
    cutoffs = one.forecasts.groupby("unique_id")["cutoff"].transform("min")
    first = one.forecasts["cutoff"] == cutoffs
    same(one.forecasts[first], other.forecasts[first])
    of_first = one.scores["origin"] == 0
    same(one.scores[of_first], other.scores[of_first])
    # The forecasts of the changed steps do not know that these changed.
    columns = [name for name in one.forecasts if name != "y"]
    same(one.forecasts[columns], other.forecasts[columns])
    assert not hasattr(forecaster, "history_")


def test_cross_validation_is_beside_the_naive_forecast(frame):
    result = XLSTMForecaster(**SMALL).cross_validate(frame, windows=3, step=2)
    assert len(result.forecasts) == 3 * 3 * 4
    joined = result.forecasts.merge(frame, on=["unique_id", "ds"], suffixes=("", "_true"))
    assert np.array_equal(joined["y"], joined["y_true"])
    assert set(result.scores["origin"]) == {0, 1, 2, "all"}
    assert set(result.scores["forecaster"]) == {"xlstm", "seasonal naive"}
    assert result.scores["mase"].gt(0).all()
    s0 = frame.loc[frame["unique_id"] == "s0", "y"].to_numpy()
    first = result.forecasts["seasonal_naive"].to_numpy()[:4]
    assert np.array_equal(first, s0[72 - 24 : 72 - 20])
    with pytest.raises(ValueError, match="windows 0 and step 4 must be at least 1"):
        XLSTMForecaster(**SMALL).cross_validate(frame, windows=0)
    with pytest.raises(ValueError, match="30 windows of horizon 4, 4 steps apart, are too long"):
        XLSTMForecaster(**SMALL).cross_validate(frame, windows=30)
