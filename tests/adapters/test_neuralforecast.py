"""The forecaster inside neuralforecast."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

with warnings.catch_warnings():  # theirs are not ours
    warnings.simplefilter("ignore")
    pytest.importorskip("neuralforecast", reason="neuralforecast is not installed: it brings ray")
    from neuralforecast import NeuralForecast
    from neuralforecast.losses.pytorch import MAE, DistributionLoss, MQLoss

    from exlstm.adapters.neuralforecast import EXLSTM

pytestmark = pytest.mark.filterwarnings("ignore")

QUIET = {
    "logger": False, "enable_progress_bar": False, "enable_checkpointing": False,
    "enable_model_summary": False, "accelerator": "cpu",
}  # fmt: skip
SMALL = {"h": 6, "input_size": 24, "patch_length": 6, "d_model": 16, "num_heads": 2}


@pytest.fixture
def frame():
    steps = np.arange(120)
    rows = [
        pd.DataFrame(
            {
                "unique_id": name,
                "ds": pd.date_range("2020", periods=120, freq="h"),
                "y": 10 + phase + np.sin((steps + phase) * np.pi / 6),
                "price": np.cos(steps),
                "load": np.sin(steps),
            }
        )
        for phase, name in enumerate("abc")
    ]
    return pd.concat(rows, ignore_index=True)


def test_it_fits_and_forecasts(frame):
    model = EXLSTM(**SMALL, max_steps=60, random_seed=3, **QUIET)
    forecaster = NeuralForecast(models=[model], freq="h")
    frame = frame[["unique_id", "ds", "y"]]
    cut = frame["ds"] < frame["ds"].max() - pd.Timedelta(hours=5)
    forecaster.fit(frame[cut])
    forecast = forecaster.predict()
    truth = frame[~cut]["y"].to_numpy()
    assert np.abs(forecast["EXLSTM"].to_numpy() - truth).mean() < 0.2


def test_quantiles_come_in_the_order_of_the_loss(frame):
    model = EXLSTM(**SMALL, max_steps=5, loss=MQLoss(level=[80, 50]), **QUIET)
    forecaster = NeuralForecast(models=[model], freq="h")
    forecaster.fit(frame[["unique_id", "ds", "y"]])
    forecast = forecaster.predict()
    names = ["EXLSTM-lo-80", "EXLSTM-lo-50", "EXLSTM-median", "EXLSTM-hi-50", "EXLSTM-hi-80"]
    assert (forecast[names].diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)


def test_covariates_of_all_three_kinds_reach_the_model(frame):
    static = pd.DataFrame({"unique_id": list("abc"), "size": [1.0, 2.0, 3.0]})
    model = EXLSTM(
        **SMALL, max_steps=2, futr_exog_list=["price"], hist_exog_list=["load"],
        stat_exog_list=["size"], **QUIET,
    )  # fmt: skip
    forecaster = NeuralForecast(models=[model], freq="h")
    forecaster.fit(frame, static_df=static)
    future = forecaster.make_future_dataframe().assign(price=0.5)
    config = forecaster.models[0].model.config
    assert (config.num_past, config.num_future, config.num_static) == (1, 1, 1)
    one = forecaster.predict(futr_df=future)["EXLSTM"]
    other = forecaster.predict(futr_df=future.assign(price=-0.5))["EXLSTM"]
    assert np.isfinite(one).all()
    assert not np.allclose(one, other)


def test_what_is_not_available_is_missing(frame):
    model = EXLSTM(**SMALL, loss=MAE(), **QUIET)
    target, available = torch.randn(2, 24, 1), torch.ones(2, 24)
    available[0, :8] = 0
    available[1] = 0
    batch = {"insample_y": target, "insample_mask": available}
    batch |= dict.fromkeys(("hist_exog", "futr_exog", "stat_exog"))
    one = model(batch)
    other = model({**batch, "insample_y": torch.where(available[..., None] == 0, 99.0, target)})
    assert one.shape == (2, 6, 1)
    assert torch.equal(one, other)
    assert torch.equal(one[1], torch.zeros(6, 1))


def test_distributions_are_refused_by_name():
    with pytest.raises(ValueError, match="DistributionLoss asks for the parameters"):
        EXLSTM(**SMALL, loss=DistributionLoss("Normal"), **QUIET)
