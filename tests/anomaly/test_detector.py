"""The detector: what it finds, its two conventions, streams, causality, and what it refuses."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from exlstm.anomaly import XLSTMAnomalyDetector

METHODS = ("prediction", "reconstruction")
TINY = {
    "d_model": 16, "num_heads": 2, "max_epochs": 2, "window": 48, "span": 8, "random_state": 0,
}  # fmt: skip
# Of scores, float32: a whole series and its steps or pieces go through kernels that sum otherwise.
ROUNDING = 1e-4


def series(steps=300, channels=2, seed=0):
    generator = np.random.default_rng(seed)
    phase = np.arange(steps)[:, None] / 4 + np.arange(channels)
    return 10 + 3 * np.sin(phase) + 0.1 * generator.normal(size=(steps, channels))


def with_gaps(x, seed=1):
    x = x.copy()
    x[np.random.default_rng(seed).random(x.shape) < 0.1] = np.nan
    x[40:45] = np.nan
    return x


@pytest.fixture(scope="module", params=METHODS)
def detector(request):
    return XLSTMAnomalyDetector(method=request.param, **TINY).fit(with_gaps(series()))


@pytest.fixture(scope="module")
def predictor():
    return XLSTMAnomalyDetector(**TINY).fit(series())


@pytest.mark.parametrize("method", METHODS)
def test_a_spike_and_a_shift_score_highest(method):
    x = series(400, 1)
    fitted = XLSTMAnomalyDetector(method=method, **TINY | {"max_epochs": 6, "half_life": 2})
    fitted.fit(x)
    spiked, shifted = x.copy(), x.copy()
    spiked[200] += 15
    shifted[200:260] += 6
    usual = fitted.decision_function(x)[100:].max()
    scores = fitted.decision_function(spiked)
    assert 200 <= scores.argmax() < 210
    assert scores.max() > usual
    scores = fitted.decision_function(shifted)
    assert 200 <= scores.argmax() < 270


def test_scores_of_a_prefix_do_not_know_the_suffix(detector):
    """Nor does the scale: what comes later is a thousand times larger, and missing in part."""
    x = with_gaps(series(200, seed=2))
    other = x.copy()
    other[120:] = with_gaps(1e4 * series(80, seed=3))
    scores, others = detector.decision_function(x), detector.decision_function(other)
    assert (scores[:120] == others[:120]).all()
    assert (scores[120:] != others[120:]).all()
    alone = detector.decision_function(x[:120])
    np.testing.assert_allclose(alone, scores[:120], rtol=0, atol=ROUNDING)


def test_a_stream_gives_the_scores_of_the_whole(detector):
    x = with_gaps(series(150, seed=4))
    whole = detector.decision_function(x)
    detector.start_stream()
    np.testing.assert_allclose([detector.score_next(step) for step in x], whole, atol=ROUNDING)
    detector.start_stream(x[:70])
    np.testing.assert_allclose(
        [detector.score_next(step) for step in x[70:]], whole[70:], atol=ROUNDING
    )


def test_scoring_moves_no_stream(detector):
    x = series(40, seed=5)
    detector.start_stream(x[:30])
    once = detector.score_next(x[30])
    detector.start_stream(x[:30])
    detector.decision_function(series(100))
    assert detector.score_next(x[30]) == once


def test_long_series_are_read_in_pieces(detector, monkeypatch):
    x = with_gaps(series(230, seed=6))
    whole = detector.decision_function(x)
    monkeypatch.setattr("exlstm.anomaly.fitting._PIECE", 37)
    np.testing.assert_allclose(detector.decision_function(x), whole, atol=ROUNDING)


def test_the_two_conventions_say_the_same(detector):
    x = with_gaps(series(seed=0))
    scores = detector.decision_function(x)
    assert scores.shape == detector.decision_scores_.shape == (300,)
    np.testing.assert_array_equal(scores, detector.decision_scores_)
    np.testing.assert_array_equal(detector.score_samples(x), -scores)
    np.testing.assert_array_equal(detector.labels_, (scores > detector.threshold_).astype(int))
    np.testing.assert_array_equal(detector.predict(x), np.where(detector.labels_ == 1, -1, 1))
    assert detector.offset_ == -detector.threshold_
    assert detector.labels_.sum() == 30  # contamination 0.1


def test_fit_predict_is_fit_and_predict():
    x = series(80, 1)
    labels = XLSTMAnomalyDetector(**TINY).fit_predict(x)
    np.testing.assert_array_equal(labels, XLSTMAnomalyDetector(**TINY).fit(x).predict(x))


def test_the_seed_decides_and_leaves_torchs_generator_alone():
    import torch

    x = series(80, 1)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, again = (XLSTMAnomalyDetector(**TINY).fit(x) for _ in range(2))
    assert torch.rand(1) == expected
    other = XLSTMAnomalyDetector(**TINY | {"random_state": 1}).fit(x)
    np.testing.assert_array_equal(one.decision_scores_, again.decision_scores_)
    assert (one.decision_scores_ != other.decision_scores_).any()


def test_the_average_halves_after_its_half_life():
    detector = XLSTMAnomalyDetector(half_life=3)
    surprises = np.array([8.0, 0, 0, np.nan, 0, 0, 0, 0])
    first, *rest = detector._average(surprises, 0.0)
    assert rest[2] == first / 2 ** (2 / 3)
    np.testing.assert_allclose(rest[3], first / 2)  # the missing step moved nothing
    alone = XLSTMAnomalyDetector(half_life=0)._average(surprises, 0.0)
    np.testing.assert_array_equal(alone, [8, 0, 0, 0, 0, 0, 0, 0])


def test_false_alarms_of_the_rate_that_was_asked_for():
    """On noise every step is like the others: the share above the threshold is the rate."""
    generator = np.random.default_rng(0)
    detector = XLSTMAnomalyDetector(
        **TINY | {"max_epochs": 1, "span": 1}, half_life=0, false_alarm_rate=0.05,
        validation_share=0.5,
    )  # fmt: skip
    detector.fit(generator.normal(size=1000))
    share = (detector.decision_function(generator.normal(size=4000)) > detector.threshold_).mean()
    # Standard deviation of the share: that of the threshold's place among 500 and of 4000 draws.
    deviation = np.sqrt(0.05 * 0.95 * (1 / 500 + 1 / 4000))
    assert abs(share - 0.05) < 3 * deviation
    held_out = detector.decision_scores_[-500:]
    assert (held_out > detector.threshold_).sum() == 24  # 501 * 0.95 = 475.95: the 476th of 500
    assert detector.threshold_ == np.sort(held_out)[475]


def test_saved_and_loaded_it_scores_to_the_bit(detector, tmp_path):
    detector.save(tmp_path / "saved")
    loaded = XLSTMAnomalyDetector.load(tmp_path / "saved")
    x = with_gaps(series(90, seed=7))
    np.testing.assert_array_equal(loaded.decision_function(x), detector.decision_function(x))
    np.testing.assert_array_equal(loaded.labels_, detector.labels_)
    assert loaded.get_params() == detector.get_params()
    assert (loaded.threshold_, loaded.history_) == (detector.threshold_, detector.history_)
    detector.start_stream()
    assert loaded.score_next(x[0]) == detector.score_next(x[0])
    files = sorted(file.name for file in (tmp_path / "saved").iterdir())
    assert files == ["estimator.json", "model.safetensors"]
    with pytest.raises(ValueError, match="exists already"):
        detector.save(tmp_path / "saved")


def test_a_folder_of_another_kind_is_refused(detector, tmp_path):
    detector.save(tmp_path / "saved")
    path = tmp_path / "saved" / "estimator.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kind": "XLSTMForecaster"}))
    with pytest.raises(ValueError, match="holds XLSTMForecaster of format 1, not"):
        XLSTMAnomalyDetector.load(tmp_path / "saved")


def test_frames_series_and_lists_are_read_as_arrays_are():
    x = series(80, 2)
    frame = pd.DataFrame(x, columns=["flow", "heat"], index=pd.date_range("2026", periods=80))
    fitted = XLSTMAnomalyDetector(**TINY).fit(frame)
    np.testing.assert_array_equal(
        fitted.decision_scores_, XLSTMAnomalyDetector(**TINY).fit(x).decision_scores_
    )
    assert fitted.feature_names_in_.tolist() == ["flow", "heat"]
    with pytest.raises(ValueError, match=r"columns \['heat', 'flow'\], .* on \['flow', 'heat'\]"):
        fitted.decision_function(frame[["heat", "flow"]])
    one = XLSTMAnomalyDetector(**TINY).fit(frame["flow"])
    np.testing.assert_array_equal(one.decision_scores_, one.decision_function(x[:, 0].tolist()))
    missing = frame["flow"].astype("Float64")
    missing.iloc[3] = pd.NA
    assert np.isfinite(one.decision_function(missing)).all()


def test_scikit_learn_clones_it_and_it_refits():
    fitted = XLSTMAnomalyDetector(**TINY).fit(pd.DataFrame({"a": series(80, 1)[:, 0]}))
    again = clone(fitted)
    assert again.get_params() == fitted.get_params()
    assert not hasattr(again, "threshold_")
    fitted.fit(series(80, 2))
    assert fitted.n_features_in_ == 2
    assert not hasattr(fitted, "feature_names_in_")


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_series_is_normal_and_what_differs_is_not(method):
    fitted = XLSTMAnomalyDetector(method=method, **TINY | {"half_life": 0}).fit(np.full(100, 7.0))
    assert np.isfinite(fitted.decision_scores_).all()
    x = np.full(60, 7.0)
    x[50] = 8.0
    scores = fitted.decision_function(x)
    assert scores.argmax() >= 50
    assert scores.max() > fitted.threshold_
    assert fitted.predict(x)[50] == -1


def test_nothing_observed_scores_as_before(predictor):
    x = np.full((5, 2), np.nan)
    np.testing.assert_array_equal(predictor.decision_function(x), [predictor.usual_surprise_] * 5)
    predictor.start_stream()
    assert predictor.score_next([np.nan, np.nan]) == predictor.usual_surprise_


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.full(100, np.nan), "channel 0 of X has no value: all are missing"),
        (np.c_[np.arange(50.0), np.full(50, np.nan)], "channel 1 of X has no value"),
        (np.arange(19.0), "X has 19 steps, fit needs at least 20"),
        (np.zeros((5, 4, 3)), r"got shape \(5, 4, 3\)"),
        (np.zeros(0), r"with at least one step, got shape \(0,\)"),
        (5.0, r"got shape \(\)"),
        (["a"] * 30, "X must be numbers, got an array of <U1"),
        (np.arange(30) * 1j, "X must be numbers, got an array of complex128"),
        ([object()] * 30, "X must be numbers: float"),
        (np.r_[np.arange(29.0), np.inf], "X is infinite at step 29, channel 0"),
        (pd.DataFrame({"a": ["x"] * 30}), "column 'a' is str, not numbers"),
    ],
)
def test_series_that_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        XLSTMAnomalyDetector(**TINY).fit(x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "magic"}, "method must be 'prediction' or 'reconstruction', got 'magic'"),
        ({"contamination": 0.0}, r"contamination must be in \(0, 0.5\], got 0.0"),
        ({"contamination": 0.6}, r"contamination must be in \(0, 0.5\], got 0.6"),
        ({"false_alarm_rate": 1.0}, r"false_alarm_rate must be in \(0, 1\), got 1.0"),
        ({"false_alarm_rate": 0.01}, "0.01 needs at least 99 steps held out, there are 20"),
        ({"half_life": -1.0}, "half_life must not be negative, got -1.0"),
        ({"validation_share": 0.0}, r"validation_share must be in \(0, 1\), got 0.0"),
        ({"span": 48}, "less than a training window's 48 steps, got 48"),
        ({"span": 0}, "got 0"),
        ({"pattern": "x"}, "letter 'x' in pattern"),
        ({"max_epochs": 0}, "max_epochs must be at least 1"),
    ],
)
def test_parameters_that_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        XLSTMAnomalyDetector(**TINY | changes).fit(series(100, 1))


def test_other_channels_than_in_fit_are_refused(predictor):
    with pytest.raises(ValueError, match="X has 3 channels, the detector was fitted on 2"):
        predictor.decision_function(series(30, 3))
    with pytest.raises(ValueError, match="X has 1 channels, the detector was fitted on 2"):
        predictor.score_next(1.0)


def test_before_fit_it_says_so():
    with pytest.raises(AttributeError, match="not fitted yet"):
        XLSTMAnomalyDetector().decision_function(np.zeros(5))
