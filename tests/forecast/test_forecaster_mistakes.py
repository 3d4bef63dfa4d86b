"""What cannot be forecast is refused, in one line."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from small_forecasts import SMALL

from exlstm.forecast import XLSTMForecaster


def test_what_is_not_fitted_says_so():
    for method in ("predict", "predict_quantiles", "plot"):
        with pytest.raises(NotFittedError, match="This XLSTMForecaster instance is not fitted yet"):
            getattr(XLSTMForecaster(), method)()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizon": 0}, "horizon must be a whole number of at least 1, got 0"),
        ({"horizon": 2.5}, "horizon must be a whole number of at least 1, got 2.5"),
        ({"context_length": 0}, "context_length must be a whole number of at least 1, got 0"),
        ({"validation_windows": -1}, "validation_windows must be a whole number of at least 0"),
        ({"horizon": 60}, "horizon 60 .* is too long for the data: .* the longest has 94"),
        ({"quantiles": (0.6, 0.9)}, "quantiles: 0.5 is outside of those learned, 0.6 to 0.9"),
        ({"quantiles": (0.9, 0.1)}, "quantiles"),
        ({"quantiles": (0.0, 0.5, 1.0)}, "quantiles must increase and lie between 0 and 1"),
        ({"quantiles": (0.1, 0.5), "conformal": True}, "must come in pairs"),
        ({"conformal": True, "calibration_share": 1.0}, "calibration_share must lie between"),
        ({"past": "wind"}, r"columns must be a sequence of names, got 'wind': \('wind',\)"),
        ({"past": ("y",)}, "column 'y' has two roles"),
        ({"past": ("wind",)}, "column 'wind' is missing"),
        ({"freq": "D"}, "is not on the grid"),
        ({"pattern": "x"}, "pattern"),
        ({"patch_length": 25}, "patch_length 25 must not be above the 24 steps a forecast reads"),
        ({"max_epochs": 0}, "max_epochs must be at least 1, got 0"),
    ],
)
def test_settings_are_checked_in_fit(frame, settings, message):
    forecaster = XLSTMForecaster(**SMALL | settings)
    with pytest.raises(ValueError, match=message):
        forecaster.fit(frame)


def test_histories_that_do_not_fit_are_named(fitted, frame):
    one = frame[frame["unique_id"] == "s0"]
    for given, message in (
        (one.assign(ds=range(80)), "freq: 'h' does not fit ds"),
        (one.iloc[::3], "series 's0' is every 3 steps of h, the frequency of the fit"),
        (one["y"], "a pandas Series is not read"),
        (np.r_[1.0, 2.0, np.full(24, np.nan)], "series 0 has no value in its last 24 steps"),
    ):
        with pytest.raises(ValueError, match=message):
            fitted.predict(given)
    with pytest.raises(ValueError, match="future: no covariates known ahead were named"):
        fitted.predict(future=frame)
    with pytest.raises(ValueError, match="covariates have names: give a frame"):
        XLSTMForecaster(**SMALL, past=("wind",)).fit(np.arange(99.0))


def test_a_new_series_is_forecast_from_its_history(fitted, frame):
    new = frame[frame["unique_id"] == "s1"].assign(unique_id="new")
    known = fitted.predict(frame[frame["unique_id"] == "s1"])
    assert np.array_equal(fitted.predict(new)["y_hat"], known["y_hat"])
