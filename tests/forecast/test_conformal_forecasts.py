"""Forecasts with calibrated intervals."""

import numpy as np
import pytest
from small_forecasts import SMALL, waves

from exlstm.forecast import XLSTMForecaster


def test_conformal_intervals_hold_what_they_promise():
    """80 series of noise, whose forecasts know nothing: the windows are exchangeable."""
    generator = np.random.default_rng(0)
    series = generator.standard_t(4, size=(80, 64))
    settings = SMALL | {"conformal": True, "calibration_share": 0.25, "max_epochs": 1}
    forecaster = XLSTMForecaster(**settings).fit(series[:, :60])
    assert forecaster.widenings_.shape == (4, 4)
    found = forecaster.predict_quantiles()
    assert np.all(np.diff(found) >= 0)
    inside = (series[:, 60:] >= found[..., 0]) & (series[:, 60:] <= found[..., -1])
    assert 0.72 < inside.mean() < 0.88  # 320 of them: two and a half standard errors
    assert np.array_equal(forecaster.predict(), found[..., 4])


def test_too_little_to_calibrate_with_is_said():
    with pytest.raises(ValueError, match="conformal: 1 calibration windows cannot promise"):
        XLSTMForecaster(**SMALL | {"conformal": True, "calibration_share": 0.1}).fit(waves(1, 60))
    with pytest.raises(ValueError, match="conformal: no window is left to calibrate with"):
        XLSTMForecaster(**SMALL | {"conformal": True, "calibration_share": 0.01}).fit(waves(1, 60))
