"""What explains an answer, and how far it can be trusted."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from small_records import events, waves

from exlstm.classify import (
    classification_scores,
    expected_calibration_error,
    plot_attribution,
    records_from_frame,
)
from exlstm.classify.calibration import fit_temperature


def test_attributions_sum_to_the_difference_of_the_logits(on_waves, on_events):
    X, _ = waves(seed=1)
    records = list(records_from_frame(events()[0], code="code").values())
    for classifier, given, names in (
        (on_waves, [X[0], X[1, :5]], ["channel 0", "channel 1"]),
        (on_events, records[:3], ["channel 0", "time", "code"]),
    ):
        for tolerance in (1e-3, 1e-6):
            found = classifier.attribute(given, tolerance=tolerance)
            gaps = np.abs(found.steps.sum(1) - found.difference)
            assert (gaps <= tolerance * np.maximum(1, np.abs(found.difference))).all()
        assert found.names == names
        assert (np.abs(found.difference) > 0.01).all()


def test_an_integral_that_stays_coarse_is_said(on_waves, monkeypatch):
    monkeypatch.setattr("exlstm.classify.attribution._FEWEST", 1)
    monkeypatch.setattr("exlstm.classify.attribution._MOST", 2)
    with pytest.warns(UserWarning, match="miss the logits' difference, .* at 2 points"):
        on_waves.attribute(waves(seed=1)[0][:1])


def test_the_difference_is_that_of_the_logits(on_waves):
    """Of two classes the logits' difference is the probabilities' log ratio."""
    X, _ = waves(seed=1)
    X = np.nan_to_num(X, nan=1.0)
    average = np.broadcast_to(on_waves._encoding.mean, X.shape)
    falls, rises = (on_waves.attribute(X[:3], [name] * 3).difference for name in ("falls", "rises"))
    log_ratio = [np.diff(np.log(on_waves.predict_proba(one)))[:3, 0] for one in (X, average)]
    # Attributions are float64, probabilities come from float32.
    np.testing.assert_allclose(rises - falls, log_ratio[0] - log_ratio[1], rtol=1e-4)


def test_attribution_explains_the_class_that_is_asked_for(on_waves):
    X, _ = waves(seed=1)
    predicted = on_waves.attribute(X[:2])
    assert predicted.target.tolist() == on_waves.predict(X[:2]).tolist()
    asked = on_waves.attribute(X[:2], predicted.target)
    np.testing.assert_array_equal(predicted.parts, asked.parts)
    assert np.all(on_waves.attribute([X[0, :5], X[1]]).parts[0, 5:] == 0)
    with pytest.raises(ValueError, match=r"target 'up' is no class; there are \['falls', 'rises'"):
        on_waves.attribute(X[:1], ["up"])
    with pytest.raises(ValueError, match="tolerance must be above 0, got 0"):
        on_waves.attribute(X[:1], tolerance=0)


def test_the_picture_shows_each_channel_and_what_each_step_adds(on_waves):
    X, _ = waves(seed=1)
    found = on_waves.attribute([X[0, :5], X[1]])
    figure = plot_attribution(found, X[0, :5])
    assert isinstance(figure, Figure)
    above, below, _ = figure.axes
    assert len(above.lines) == 2
    heights = [bar.get_height() for bar in below.patches]
    np.testing.assert_allclose(heights, found.steps[0, :5])
    with pytest.raises(ValueError, match=r"record must have 12 steps, got shape \(5, 2\)"):
        plot_attribution(found, X[0, :5], row=1)
    with pytest.raises(ValueError, match="row must be 0 to 1, got 2"):
        plot_attribution(found, X[0], row=2)


def test_the_temperature_is_the_best_one():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(4000, 3))
    odds = np.exp(truth)
    targets = np.array([rng.choice(3, p=one / one.sum()) for one in odds])
    assert fit_temperature((3 * truth).astype(np.float32), targets) == pytest.approx(3, rel=0.05)


def test_a_few_right_answers_are_no_certainty():
    logits = np.array([[4.0, 0.0], [0.0, 4.0], [4.0, 0.0]], dtype=np.float32)
    # Right in all of 3: as sure as 4 of 5.
    temperature = fit_temperature(logits, np.array([0, 1, 0]))
    assert np.exp(4 / temperature) == pytest.approx(4, rel=1e-3)


def test_probabilities_are_of_the_logits_divided_by_the_temperature(on_events):
    assert on_events.temperature_ != 1.0
    records = list(records_from_frame(events()[0], code="code").values())
    logits = on_events._logits(on_events._encoded(records))
    expected = np.exp(logits / on_events.temperature_)
    expected /= expected.sum(1, keepdims=True)
    # `expected` is a softmax in float32.
    np.testing.assert_allclose(on_events.predict_proba(records), expected, rtol=1e-5)


def test_the_calibration_error_is_the_gap_within_bins():
    # Two bins: sure and half right, nearly sure and always right.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    error = expected_calibration_error([0, 1, 1, 1], probabilities, [0, 1])
    assert error == pytest.approx((abs(1 - 1.8) + abs(2 - 1.2)) / 4)
    with pytest.raises(ValueError, match=r"must be \(N, A\) = \(3, 2\), got \(4, 2\)"):
        expected_calibration_error([0, 1, 1], probabilities, [0, 1])


def test_scores_are_means_over_the_classes_that_occur():
    probabilities = np.array([[0.8, 0.2, 0.0], [0.6, 0.4, 0.0], [0.3, 0.7, 0.0], [0.2, 0.2, 0.6]])
    y = ["a", "a", "b", "b"]
    scores = classification_scores(y, probabilities, ["a", "b", "c"])
    assert scores["accuracy"] == 0.75
    assert scores["balanced_accuracy"] == 0.75
    assert scores["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert scores["log_loss"] == pytest.approx(-np.log([0.8, 0.6, 0.7, 0.2]).mean())
