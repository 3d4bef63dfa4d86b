"""The classifier as scikit-learn sees it, what it promises about time, and what it refuses."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import check_estimator
from small_records import SMALL, events, waves

from exlstm.classify import Record, XLSTMClassifier, records_from_frame

ANY_LENGTH = "sequences in predict may be longer or shorter than those in fit"
NOT_APPLICABLE = {
    "check_n_features_in": ANY_LENGTH,
    "check_n_features_in_after_fitting": ANY_LENGTH,
    "check_classifiers_train": ANY_LENGTH,  # its last part; the others are tested below
}


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_pass():
    classifier = XLSTMClassifier(
        d_model=8, num_heads=2, max_epochs=12, learning_rate=1e-2, input_width=1,
        validation_fraction=0, random_state=0,
    )  # fmt: skip
    results = check_estimator(
        classifier, expected_failed_checks=NOT_APPLICABLE, on_fail=None, on_skip=None
    )
    failed = {one["check_name"]: one["exception"] for one in results if one["status"] == "failed"}
    expected = {one["check_name"] for one in results if one["status"] == "xfail"}
    assert failed == {}
    assert expected == set(NOT_APPLICABLE)


# Of probabilities, float32: other numbers of rows and steps go through products that sum otherwise.
ROUNDING = 1e-5


def test_it_learns(on_waves, on_events):
    X, y = waves(seed=1)
    assert on_waves.score(X, y) == 1.0
    assert on_waves.classes_.tolist() == ["falls", "rises"]
    probabilities = on_waves.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(1), 1.0)
    assert on_waves.predict(X).tolist() == on_waves.classes_[probabilities.argmax(1)].tolist()
    frame, y = events(seed=1)
    assert on_events.score(list(records_from_frame(frame, code="code").values()), y) > 0.7


def test_a_list_is_what_an_array_is(on_waves):
    X, _ = waves(seed=1)
    np.testing.assert_array_equal(on_waves.predict_proba(list(X)), on_waves.predict_proba(X))
    shorter = [X[0, :5], X[1], X[2, :1]]
    together = on_waves.predict_proba(shorter)
    alone = np.concatenate([on_waves.predict_proba([one]) for one in shorter])
    np.testing.assert_allclose(together, alone, rtol=ROUNDING)


def test_a_prefix_is_answered_the_same_whatever_comes_later(on_waves, on_events):
    X, _ = waves(seed=1)
    steps = on_waves.predict_proba_steps(X)
    np.testing.assert_array_equal(steps[:, -1], on_waves.predict_proba(X))
    changed = X.copy()
    changed[:, 7:] = 1e6
    np.testing.assert_array_equal(on_waves.predict_proba_steps(changed)[:, :7], steps[:, :7])
    for length in (1, 7):
        ended = on_waves.predict_proba(X[:, :length])
        np.testing.assert_allclose(ended, steps[:, length - 1], rtol=ROUNDING)

    record = next(iter(records_from_frame(events()[0], code="code").values()))
    prefix = Record(record.values[:2], record.times[:2], record.codes[:2])
    whole = on_events.predict_proba_steps([record])
    np.testing.assert_allclose(on_events.predict_proba([prefix])[0], whole[0, 1], rtol=ROUNDING)


def test_behind_the_end_there_is_no_answer(on_waves):
    X, _ = waves(seed=1)
    steps = on_waves.predict_proba_steps([X[0, :5], X[1]])
    assert np.isnan(steps[0, 5:]).all()
    assert np.isfinite(steps[0, :5]).all()
    assert np.isfinite(steps[1]).all()


def test_the_seed_decides_everything(on_waves):
    X, y = waves()
    torch_before = torch.get_rng_state()
    again = XLSTMClassifier(**SMALL, num_networks=2, stride=2, early=True).fit(X, y)
    assert torch.equal(torch.get_rng_state(), torch_before)
    np.testing.assert_array_equal(again.predict_proba(X), on_waves.predict_proba(X))
    other = XLSTMClassifier(**(SMALL | {"random_state": 1, "max_epochs": 1})).fit(X, y)
    assert not np.array_equal(other.predict_proba(X), again.predict_proba(X))


def test_weights_move_the_answers_to_their_class():
    X, y = waves(seed=2)
    X = X + np.random.default_rng(0).normal(size=X.shape) * 20
    shares = [
        np.mean(
            XLSTMClassifier(**SMALL, class_weight={"falls": 1, "rises": weight})
            .fit(X, y)
            .predict_proba(X)[:, 1]
        )
        for weight in (0.05, 20)
    ]
    assert shares[0] < 0.3 < 0.7 < shares[1]


def test_training_changes_what_it_is_told_to():
    X, y = waves()
    plain = {**SMALL, "max_epochs": 1, "validation_fraction": 0}
    losses = {
        str(changes): XLSTMClassifier(**plain, **changes).fit(X, y).history_[0][0]["loss"]
        for changes in ({}, {"shift": 3}, {"noise": 0.5}, {"early": True})
    }
    assert len(set(losses.values())) == 4


def test_scikit_learn_can_take_records_apart():
    frame, y = events()
    records = list(records_from_frame(frame, code="code").values())
    classifier = XLSTMClassifier(**(SMALL | {"max_epochs": 1}), unseen_codes="ignore")
    assert len(cross_val_score(classifier, records, y, cv=2)) == 2


def test_a_fresh_process_loads_and_predicts_the_same(on_events, tmp_path):
    on_events.save(tmp_path / "saved")
    records = list(records_from_frame(events()[0], code="code").values())[:3]
    parts = [(one.values.tolist(), one.times.tolist(), one.codes.tolist()) for one in records]
    (tmp_path / "records.json").write_text(json.dumps(parts))
    code = (
        "import json; from exlstm.classify import *; c = XLSTMClassifier.load('saved')\n"
        "records = [Record(*parts) for parts in json.load(open('records.json'))]\n"
        "print(json.dumps([c.predict_proba(records).tolist(), c.class_weight == {0: 1.0, 1: 2.0}]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == [on_events.predict_proba(records).tolist(), True]


def test_loaded_classes_are_what_they_were(on_waves, tmp_path):
    on_waves.save(tmp_path / "saved")
    loaded = XLSTMClassifier.load(tmp_path / "saved")
    X, _ = waves(seed=1)
    assert loaded.predict(X).tolist() == on_waves.predict(X).tolist()
    assert loaded.classes_.dtype == on_waves.classes_.dtype
    assert loaded.get_params() == on_waves.get_params()
    with pytest.raises(NotFittedError):
        XLSTMClassifier().save(tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_networks": 0}, "num_networks must be at least 1, got 0"),
        ({"shift": -1}, "shift must be at least 0, got -1"),
        ({"validation_fraction": 1.0}, "validation_fraction must be at least 0 and below 1, got 1"),
        ({"unseen_codes": "drop"}, "unseen_codes must be 'error' or 'ignore', got 'drop'"),
        ({"calibrate": True, "validation_fraction": 0}, "calibrate=True needs held-out records"),
        ({"max_epochs": 0}, "max_epochs must be at least 1, got 0"),
        ({"pattern": "x"}, "letter 'x' in pattern"),
    ],
)
def test_impossible_parameters_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        XLSTMClassifier(**changes).fit(*waves(8))


@pytest.mark.parametrize(
    ("X", "y", "said"),
    [
        (np.ones((3, 4)), ["a", "a", "a"], "y has one class only, .*'a'.*at least 2 are needed"),
        (np.ones((3, 4)), [0, 1], r"inconsistent numbers of samples: \[3, 2\]"),
        (np.ones((3, 4)), [0.1, 1.2, 2.3], "Unknown label type: continuous"),
        (np.full((2, 3, 1), np.nan), [0, 1], "record 0 has no value: all 3 are NaN"),
        (np.full((2, 3), np.inf), [0, 1], "infinity"),
        (np.array([["a"], ["b"]]), [0, 1], "(?i)could not convert|dtype='numeric'"),
        (
            [[[1.0, np.nan]], [[2.0, np.nan]]],
            [0, 1],
            "channel 1 is missing in all records",
        ),
    ],
)
def test_records_that_teach_nothing_are_refused(X, y, said):
    with pytest.raises(ValueError, match=said):
        XLSTMClassifier(**SMALL).fit(X, y)


def test_records_unlike_those_in_fit_are_refused(on_waves, on_events):
    with pytest.raises(ValueError, match="records have 1 channel, but those in fit had 2 channels"):
        on_waves.predict(np.ones((3, 4)))
    with pytest.raises(ValueError, match="have 2 channels and times, but those in fit had 2 ch"):
        on_waves.predict([Record(np.ones((2, 2)), times=[0, 1])])
    new = [Record([1.0, 2.0], times=[0, 1], codes=["a", "zebra"])]
    with pytest.raises(ValueError, match="fit has not seen: 'zebra'; it has seen 'a', 'b', 'c'"):
        on_events.predict(new)
    with pytest.raises(ValueError, match=r"X must be an array .* or a list .*, got Record"):
        on_events.predict(new[0])


def test_unseen_codes_are_read_as_none_if_asked(on_events):
    new = [Record([1.0, 2.0], times=[0, 1], codes=["a", "zebra"])]
    without = [Record([1.0, 2.0], times=[0, 1], codes=["a", None])]
    try:
        on_events.set_params(unseen_codes="ignore")
        np.testing.assert_array_equal(
            on_events.predict_proba(new), on_events.predict_proba(without)
        )
    finally:
        on_events.set_params(unseen_codes="error")


def test_what_training_never_missed_says_nothing_when_missing():
    X, y = waves()
    classifier = XLSTMClassifier(**SMALL).fit(np.nan_to_num(X), y)
    missing = np.nan_to_num(X[:1])
    average = missing.copy()
    missing[0, 3], average[0, 3] = np.nan, classifier._encoding.mean
    np.testing.assert_allclose(
        classifier.predict_proba(missing), classifier.predict_proba(average), rtol=ROUNDING
    )
