"""The forecaster inside GluonTS."""

import warnings

import numpy as np
import pandas as pd
import pytest

with warnings.catch_warnings():  # theirs are not ours
    warnings.simplefilter("ignore")
    pytest.importorskip("gluonts", reason="gluonts is not installed")
    from gluonts.dataset.split import split
    from gluonts.ev.metrics import MASE, MeanWeightedSumQuantileLoss
    from gluonts.model import evaluate_model
    from gluonts.model.predictor import Predictor

    from exlstm.adapters.gluonts import ExlstmEstimator
    from exlstm.forecast import XLSTMForecaster

pytestmark = pytest.mark.filterwarnings("ignore")

LEVELS = (0.1, 0.5, 0.9)


@pytest.fixture(scope="module")
def dataset():
    steps = np.arange(200)
    return [
        {
            "item_id": name,
            "start": pd.Period("2024-01-01 00:00", "h"),
            "target": 5 + np.sin((steps + phase) * np.pi / 12),
        }
        for phase, name in enumerate("abc")
    ]


@pytest.fixture(scope="module")
def predictor(dataset):
    forecaster = XLSTMForecaster(
        horizon=6, context_length=48, quantiles=LEVELS, d_model=16, num_heads=2, max_epochs=5,
        windows_per_epoch=256, learning_rate=5e-3, random_state=0,
    )  # fmt: skip
    return ExlstmEstimator(forecaster).train(dataset)


def test_forecasts_follow_their_series(dataset, predictor):
    forecasts = list(predictor.predict(dataset))
    assert [forecast.item_id for forecast in forecasts] == list("abc")
    for item, forecast in zip(dataset, forecasts, strict=True):
        assert forecast.start_date == item["start"] + 200
        assert forecast.prediction_length == 6
        found = np.stack([forecast.quantile(level) for level in LEVELS], axis=-1)
        own = predictor.forecaster.predict_quantiles(item["target"])
        # Alone and in a batch of three: float32 products sum otherwise.
        np.testing.assert_allclose(found, own, rtol=1e-6)
    assert predictor.forecaster.season_length == 24


def test_gluonts_own_evaluation_takes_it(dataset, predictor):
    _, template = split(dataset, offset=-12)
    scores = evaluate_model(
        predictor,
        test_data=template.generate_instances(prediction_length=6, windows=2),
        metrics=[MASE(), MeanWeightedSumQuantileLoss(quantile_levels=LEVELS)],
        seasonality=1,
    )
    assert scores["MASE[0.5]"].item() < 3
    assert 0 < scores["mean_weighted_sum_quantile_loss"].item() < 0.1


def test_it_is_written_and_read(dataset, predictor, tmp_path):
    predictor.serialize(tmp_path)
    back = Predictor.deserialize(tmp_path)
    for one, other in zip(predictor.predict(dataset), back.predict(dataset), strict=True):
        assert np.array_equal(one.forecast_array, other.forecast_array)


def test_what_does_not_do_is_named(predictor):
    item = {"item_id": "wide", "start": pd.Period("2024", "D"), "target": np.ones((2, 50))}
    with pytest.raises(ValueError, match=r"target of 'wide' has shape \(2, 50\): give one series"):
        list(predictor.predict([item]))
    with pytest.raises(ValueError, match="training_data has no series"):
        ExlstmEstimator(predictor.forecaster).train([])
