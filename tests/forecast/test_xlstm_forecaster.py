"""The estimator: its forms of input and output."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from small_forecasts import HOUR, SMALL, same, waves

from exlstm.forecast import XLSTMForecaster


def test_forecasts_of_a_frame(fitted, frame):
    found = fitted.predict()
    assert list(found.columns) == ["unique_id", "ds", "y_hat"]
    assert found["unique_id"].tolist() == [f"s{i}" for i in range(3) for _ in range(4)]
    assert found["ds"].dtype == frame["ds"].dtype
    for id, rows in found.groupby("unique_id"):
        end = frame.loc[frame["unique_id"] == id, "ds"].max()
        assert rows["ds"].tolist() == [end + k * HOUR for k in range(1, 5)]
    quantiles = fitted.predict_quantiles()
    assert list(quantiles.columns[2:]) == [f"q0.{k}" for k in range(1, 10)]
    assert np.all(np.diff(quantiles.iloc[:, 2:].to_numpy()) >= 0)
    assert np.array_equal(quantiles["q0.5"], found["y_hat"])
    between = fitted.predict_quantiles(quantiles=(0.25,))["q0.25"]
    assert np.allclose(between, (quantiles["q0.2"] + quantiles["q0.3"]) / 2)
    with pytest.raises(ValueError, match=r"0.95 is outside of those learned, 0.1 to 0.9"):
        fitted.predict_quantiles(quantiles=(0.95,))


def test_arrays_come_back_as_arrays(frame):
    series = [part.to_numpy() for _, part in frame.groupby("unique_id")["y"]]
    many = XLSTMForecaster(**SMALL).fit(series)
    assert many.predict().shape == (3, 4)
    assert many.predict_quantiles(quantiles=(0.2, 0.8)).shape == (3, 4, 2)
    assert many.predict(series[0]).shape == (4,)
    assert many.predict(np.stack([one[:50] for one in series])).shape == (3, 4)
    # The same numbers with names and dates are the same panel.
    named = XLSTMForecaster(**SMALL).fit(frame).predict()["y_hat"].to_numpy()
    assert np.array_equal(many.predict().reshape(-1), named)
    one = XLSTMForecaster(**SMALL).fit(series[0])
    assert one.predict().shape == (4,)
    assert one.predict_quantiles().shape == (4, 9)


@pytest.mark.parametrize("freq", ["MS", "B", 3])
def test_any_frequency(freq):
    frame = waves(2, 60, freq)
    forecaster = XLSTMForecaster(**SMALL | {"max_epochs": 1}).fit(frame)
    assert forecaster.freq_ == freq
    ends = frame.groupby("unique_id")["ds"].max()
    found = forecaster.predict().groupby("unique_id")["ds"]
    if freq == 3:
        assert found.first().tolist() == [end + 3 for end in ends]
        assert forecaster.season_length_ == 1
    else:
        later = [pd.date_range(end, periods=5, freq=freq) for end in ends]
        assert found.first().tolist() == [times[1] for times in later]
        assert found.last().tolist() == [times[4] for times in later]


def test_the_same_seed_is_the_same_forecast(fitted, frame):
    state = torch.random.get_rng_state()
    again = clone(fitted).fit(frame)
    assert torch.equal(torch.random.get_rng_state(), state)
    same(again.predict(), fitted.predict())
    other = clone(fitted).set_params(random_state=1).fit(frame).predict()
    assert not np.allclose(other["y_hat"], fitted.predict()["y_hat"])


def test_it_learns_what_repeats():
    season = np.tile([0.0, 3.0, 1.0, 7.0, 2.0, 5.0], 40)
    noise = 0.05 * np.random.default_rng(0).normal(size=240)
    forecaster = XLSTMForecaster(**SMALL | {"horizon": 6, "max_epochs": 3}).fit(season + noise)
    assert np.abs(forecaster.predict() - season[:6]).max() < 0.5


def test_another_unit_is_another_unit(fitted, frame):
    for factor, shift in ((1e-6, 0.0), (1e6, 0.0), (1.0, 1e7)):
        scaled = fitted.predict(frame.assign(y=factor * frame["y"] + shift))["y_hat"]
        expected = factor * fitted.predict(frame)["y_hat"] + shift
        assert np.allclose(scaled - shift, expected - shift, rtol=1e-3, atol=1e-3 * factor)


def test_a_constant_history_stays_so(fitted):
    found = fitted.predict_quantiles(np.full(30, 0.1))
    assert np.all(found == 0.1)
    few = np.r_[np.full(29, np.nan), 7.0]
    assert np.all(fitted.predict(few) == 7.0)


def test_missing_values_are_forecast_through(fitted, frame):
    holes = frame.drop(index=[70, 72, 75])
    filled = frame.copy()
    filled.loc[[70, 72, 75], "y"] = np.nan
    found = fitted.predict(holes)
    assert found["y_hat"].notna().all()
    same(found, fitted.predict(filled))


def test_progress_is_said(capsys):
    lines = []
    series = np.sin(np.arange(60.0))
    XLSTMForecaster(**SMALL | {"progress": lines.append}).fit(series)
    assert [line["epoch"] for line in lines] == [1, 2]
    XLSTMForecaster(**SMALL | {"progress": True, "validation_windows": 0}).fit(series)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[1].startswith("epoch   2  loss ")


def test_a_picture(fitted):
    figure = fitted.plot(ids=["s2", "s0"], steps=10)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["s2", "s0"]
    history, median = figure.axes[0].get_lines()
    assert len(history.get_xdata()) == 10
    assert np.allclose(median.get_ydata(), fitted.predict()["y_hat"][-4:])
    assert len(figure.axes[0].collections) == 4
    with pytest.raises(ValueError, match="ids: 'z' is not known; known are 's0', 's1', 's2'"):
        fitted.plot(ids=["z"])
