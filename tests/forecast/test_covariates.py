"""Covariates: static, past and known ahead."""

import numpy as np
import pandas as pd
import pytest
from small_forecasts import HOUR, NAMES, SMALL, ahead, covariates, same, waves

from exlstm.forecast import XLSTMForecaster


@pytest.fixture(scope="module")
def with_covariates():
    return XLSTMForecaster(**SMALL | NAMES).fit(covariates(waves(2, 60)))


def test_covariates_are_read(with_covariates):
    frame = covariates(waves(2, 60))
    future = ahead(frame)
    found = with_covariates.predict(future=future)["y_hat"]
    for changed in (
        with_covariates.predict(future=future.assign(price=3.0)),
        with_covariates.predict(frame.assign(wind=0.0), future),
        with_covariates.predict(frame.assign(price=0.0), future),
        with_covariates.predict(frame.assign(kind="x"), future),
    ):
        assert not np.allclose(changed["y_hat"], found)
    same(with_covariates.predict(frame, future), with_covariates.predict(future=future))
    # What lies further ahead than the horizon is not looked at.
    further = with_covariates.predict(future=ahead(frame, 9).iloc[::-1])
    same(further, with_covariates.predict(future=future))


def test_an_effect_of_a_known_covariate_is_learned():
    generator = np.random.default_rng(0)
    ds = pd.date_range("2024-01-01", periods=400, freq="h")
    on = (generator.random(400) < 0.5).astype(float)
    y = 5 * on + generator.normal(size=400) / 10
    frame = pd.DataFrame({"unique_id": "s0", "ds": ds, "on": on, "y": y})
    settings = SMALL | {"max_epochs": 30, "windows_per_epoch": 256, "learning_rate": 5e-3}
    forecaster = XLSTMForecaster(**settings, future=("on",)).fit(frame[:-4])
    both = [forecaster.predict(future=frame[-4:].assign(on=value))["y_hat"] for value in (0.0, 1.0)]
    assert np.all(both[1] - both[0] > 3.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: None, "future: give a frame with unique_id, ds, price for 4 steps"),
        (lambda f: f.drop(index=5), "series 's1' lacks price at 2024-01-03 20:00:00"),
        (lambda f: f.assign(price=np.nan), "series 's0' lacks price at"),
        (lambda f: f[f["unique_id"] == "s0"], "series 's1' lacks price at"),
        (lambda f: f.assign(unique_id="z"), "series 'z' is not known"),
        (lambda f: f.assign(ds=f["ds"] - HOUR), "does not follow"),
        (lambda f: f.drop(columns="price"), "column 'price' is missing"),
        (lambda f: f.assign(price="dear"), "price is str: it must be numbers"),
    ],
)
def test_covariates_ahead_must_be_whole(with_covariates, change, message):
    with pytest.raises(ValueError, match=message):
        with_covariates.predict(future=change(ahead(covariates(waves(2, 60)))))


def test_a_category_that_was_not_there_is_named(with_covariates):
    frame = covariates(waves(2, 60))
    frame.loc[frame["unique_id"] == "s1", "kind"] = "z"
    with pytest.raises(ValueError, match=r"'s1': kind 'z' was not there in fit, .* 'x', 'y'"):
        with_covariates.predict(frame, ahead(frame))


def test_covariates_over_what_is_not_trained_on_do_not_count():
    """Their mean and deviation come from before the validation."""
    frame = covariates(waves(2, 60))
    late = frame.groupby("unique_id").cumcount(ascending=False) < 4
    changed = frame.assign(wind=frame["wind"].where(~late, 1e6))
    one, other = (
        XLSTMForecaster(**SMALL | NAMES | {"max_epochs": 1}).fit(each) for each in (frame, changed)
    )
    assert one.encoding_ == other.encoding_
