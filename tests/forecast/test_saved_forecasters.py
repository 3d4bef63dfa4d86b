"""Fitted forecasters as files."""

import copy
import pickle
import subprocess
import sys

import pandas as pd
import pytest
from small_forecasts import HOUR, NAMES, SMALL, ahead, covariates, same, waves

from exlstm.forecast import XLSTMForecaster


def test_a_saved_forecaster_is_the_same_in_a_fresh_process(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    code = (
        "import sys; from exlstm.forecast import XLSTMForecaster\n"
        "forecaster = XLSTMForecaster.load(sys.argv[1])\n"
        "forecaster.predict_quantiles().to_pickle(sys.argv[2])"
    )
    target = tmp_path / "there"
    subprocess.run([sys.executable, "-c", code, tmp_path / "model", target], check=True)
    same(pd.read_pickle(target), fitted.predict_quantiles())
    with pytest.raises(ValueError, match="exists already"):
        fitted.save(tmp_path / "model")


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_all_that_is_fitted_is_saved(zone, tmp_path):
    frame = covariates(waves(2, 60))
    frame["ds"] = frame["ds"].dt.tz_localize(zone)
    settings = SMALL | NAMES | {"conformal": True, "quantiles": [0.3, 0.5, 0.7], "max_epochs": 1}
    forecaster = XLSTMForecaster(**settings).fit(frame)
    forecaster.save(tmp_path / "model")
    again = XLSTMForecaster.load(tmp_path / "model")
    assert again.get_params() == forecaster.get_params() | {"quantiles": (0.3, 0.5, 0.7)} | NAMES
    future = ahead(frame)
    same(again.predict_quantiles(future=future), forecaster.predict_quantiles(future=future))
    assert again.losses_ == forecaster.losses_
    new = covariates(frame.groupby("unique_id").tail(1).assign(ds=lambda rows: rows["ds"] + HOUR))
    future = ahead(pd.concat([frame, new]))
    one, other = (each.update(new).predict(future=future) for each in (again, forecaster))
    same(one, other)


def test_it_pickles(fitted):
    same(pickle.loads(pickle.dumps(fitted)).predict(), fitted.predict())


def test_ids_that_cannot_be_saved_are_named(fitted, tmp_path):
    other = copy.deepcopy(fitted)
    other.history_.ids[1] = 1.5
    with pytest.raises(ValueError, match=r"unique_id: 1\.5 cannot be saved"):
        other.save(tmp_path / "model")
