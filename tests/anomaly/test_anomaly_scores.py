"""VUS-PR, average precision and F1: against cases worked by hand and against plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from exlstm.anomaly import average_precision, best_f1, vus_pr


def range_auc_pr(labels, scores, length, thresholds):
    """The area for one buffer as the paper words it: a loop over thresholds, sets of steps."""
    labels = np.asarray(labels)
    total = len(labels)
    steps = np.flatnonzero(labels)
    groups = np.split(steps, np.flatnonzero(np.diff(steps) > 1) + 1)
    half = length // 2
    weights = labels.astype(float)
    for group in groups:
        for step in range(total):
            distance = max(group[0] - step, step - group[-1])
            if 0 < distance <= half:
                weights[step] += np.sqrt(1 - distance / length)
    weights = np.minimum(weights, 1)
    ranges = [[max(group[0] - half, 0), group[-1] + half] for group in groups]
    merged = ranges[:1]
    for first, last in ranges[1:]:
        if first <= merged[-1][1]:
            merged[-1][1] = last
        else:
            merged.append([first, last])
    area, before = 0.0, 0.0
    for threshold in thresholds:
        marked = scores >= threshold
        hits = (weights * marked).sum()
        buffered = (weights * marked)[labels == 0].sum()
        recall = min(1.0, hits / (labels.sum() + buffered / 2))
        recall *= np.mean([marked[first : last + 1].any() for first, last in merged])
        area += hits / marked.sum() * (recall - before)
        before = recall
    return area


@st.composite
def labelled(draw):
    size = draw(st.integers(5, 40))
    labels = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype=int)
    labels[draw(st.integers(0, size - 1))] = 1
    values = st.integers(0, draw(st.sampled_from([3, 1000])))
    return labels, np.array(draw(st.lists(values, min_size=size, max_size=size)), dtype=float)


@given(labelled(), st.integers(0, 12))
def test_the_volume_is_the_mean_of_the_areas(case, max_buffer):
    labels, scores = case
    thresholds = np.unique(scores)[::-1]
    areas = [range_auc_pr(labels, scores, length, thresholds) for length in range(max_buffer + 1)]
    assert vus_pr(labels, scores, max_buffer) == pytest.approx(np.mean(areas), abs=1e-12)


@given(labelled(), st.integers(0, 12), st.integers(2, 9))
def test_thresholds_at_equal_distances_in_rank(case, max_buffer, number):
    labels, scores = case
    ranks = np.linspace(0, len(scores) - 1, number).astype(int)
    thresholds = np.sort(scores)[::-1][ranks]
    areas = [range_auc_pr(labels, scores, length, thresholds) for length in range(max_buffer + 1)]
    volume = vus_pr(labels, scores, max_buffer, num_thresholds=number)
    assert volume == pytest.approx(np.mean(areas), abs=1e-12)


def test_volumes_worked_by_hand():
    # No buffer: precision and recall of steps; one anomaly, so a hit is all that exists.
    assert vus_pr([0, 1, 1, 0], [0, 3, 1, 2], 0) == pytest.approx(1 / 2 + (2 / 3) / 2)
    # Two anomalies: recall 1/2 of the steps in 1/2 of the anomalies, then all in all.
    assert vus_pr([1, 0, 1], [3, 1, 2], 0) == pytest.approx(1 / 4 + 3 / 4)
    # l = 2: one step on each side has the label sqrt(1/2). Marked first: the step before.
    # hits s = sqrt(1/2), recall s / (1 + s / 2); then the anomaly itself: recall 1.
    s = np.sqrt(0.5)
    first = s / (1 + s / 2)
    area = s * first + (1 + s) / 2 * (1 - first)
    # l = 0 and l = 1 have no buffer: the anomaly is found second, at precision 1/2.
    assert vus_pr([0, 0, 1, 0, 0], [0, 3, 2, 0, 0], 2) == pytest.approx((0.5 + 0.5 + area) / 3)


@given(labelled())
def test_without_a_buffer_one_anomaly_gives_average_precision(case):
    labels, scores = case
    labels = np.zeros_like(labels)
    labels[1:4] = 1
    assert vus_pr(labels, scores, 0) == pytest.approx(average_precision(labels, scores), abs=1e-12)


@given(labelled())
def test_average_precision_and_best_f1_against_scikit_learn(case):
    labels, scores = case
    expected = average_precision_score(labels, scores)
    assert average_precision(labels, scores) == pytest.approx(expected, abs=1e-12)
    best = max(f1_score(labels, scores >= threshold) for threshold in scores)
    assert best_f1(labels, scores) == pytest.approx(best, abs=1e-12)


def test_a_marked_step_finds_itself_only():
    """Point-adjusted, the one step would find all of the anomaly: F1 1."""
    labels, scores = np.zeros(1000), np.zeros(1000)
    labels[400:600], scores[500] = 1, 1
    assert best_f1(labels, scores) == pytest.approx(2 * 200 / (1000 + 200))


@pytest.mark.parametrize("score", [vus_pr, average_precision, best_f1])
def test_refusals(score):
    with pytest.raises(ValueError, match=r"must be \(T,\) both, got \(3,\) and \(2,\)"):
        score([0, 1, 0], [0.1, 0.2])
    with pytest.raises(ValueError, match="0 or 1, with at least one 1"):
        score([0, 0], [0.1, 0.2])
    with pytest.raises(ValueError, match="0 or 1, with at least one 1"):
        score([0, -1], [0.1, 0.2])
    with pytest.raises(ValueError, match="1 of the scores are not finite"):
        score([0, 1], [0.1, float("nan")])


def test_a_negative_buffer_is_refused():
    with pytest.raises(ValueError, match="max_buffer must not be negative, got -1"):
        vus_pr([0, 1], [0.1, 0.2], -1)
