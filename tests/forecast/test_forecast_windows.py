"""Windows, and which of them train, validate and calibrate."""

import numpy as np
import pytest
import torch

from exlstm.forecast.encoding import Encoding
from exlstm.forecast.panel import Panel, panel_from_arrays
from exlstm.forecast.rows import Covariates
from exlstm.forecast.splits import Origins, drawn, split
from exlstm.forecast.windows import Windows, varied_before

NAMES = Covariates(("kind",), ("p",), ("f",))


def panel(seed=0):
    generator = np.random.default_rng(seed)
    values = [generator.normal(size=(length, 3)) for length in (30, 17)]
    return Panel(["a", "b"], [29, 16], 1, values, [("x",), ("y",)])


def windows(given, context=8, horizon=3):
    encoding = Encoding.fit(given, NAMES)
    return Windows(given, encoding, NAMES, context, horizon)


def test_a_window_is_what_lies_before_and_behind():
    given = panel()
    batch = windows(given).batch(np.array([0, 1]), np.array([20, 5]))
    y = given.values[0][:, 0]
    known = y[12:20]
    assert np.allclose(batch.shift[0], known.mean())
    assert np.allclose(batch.scale[0], known.std())
    assert np.allclose(batch.target[0], (known - known.mean()) / known.std(), atol=1e-6)
    assert np.allclose(batch.truth[0], (y[20:23] - known.mean()) / known.std(), atol=1e-6)
    # Five steps of the other are known; nothing comes from its neighbour.
    assert batch.target[1].isnan().tolist() == [True] * 3 + [False] * 5
    p, f = np.concatenate(given.values)[:, 1:].T
    assert np.allclose(
        batch.past[0, :, 0], (given.values[0][12:20, 1] - p.mean()) / p.std(), atol=1e-6
    )
    assert np.allclose(
        batch.future[0, :, 0], (given.values[0][12:23, 2] - f.mean()) / f.std(), atol=1e-6
    )
    assert batch.static.tolist() == [[1, 0], [0, 1]]


def test_what_lies_behind_the_end_is_missing():
    batch = windows(panel()).batch(np.array([0]), np.array([28]))
    assert batch.truth[0].isnan().tolist() == [False, False, True]
    assert batch.future[0].isnan().any(1).tolist() == [False] * 10 + [True]


def test_a_window_reads_nothing_behind_its_origin():
    """But the covariates known ahead, and the truth."""
    given, other = panel(), panel()
    other.values[0][20:, 0] = 1e6
    other.values[0][20:, 1] = 1e6
    encoding = Encoding.fit(given, NAMES)
    one, two = (
        Windows(each, encoding, NAMES, 8, 3).batch(np.array([0]), np.array([20]))
        for each in (given, other)
    )
    for name in ("target", "past", "future", "static"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert (one.shift, one.scale) == (two.shift, two.scale)


def test_far_from_zero_no_digit_is_lost():
    y = np.sin(np.arange(20.0))
    plain, far = (panel_from_arrays(1e9 + y if far else y) for far in (False, True))
    none = Encoding([], [], [])
    batches = [
        Windows(one, none, Covariates(), 8, 2).batch(np.array([0]), np.array([10]))
        for one in (plain, far)
    ]
    assert torch.allclose(batches[0].target, batches[1].target, atol=1e-5)
    back = batches[1].in_units(batches[1].truth[..., None])
    assert np.allclose(back[0, :, 0], 1e9 + y[10:12], rtol=0, atol=1e-6)


def test_varied_before_is_what_it_says():
    generator = np.random.default_rng(0)
    for _ in range(20):
        y = generator.integers(0, 2, 30).astype(float)
        y[generator.random(30) < 0.4] = np.nan
        for context in (1, 2, 5, 40):
            expected = []
            for origin in range(31):
                known = y[max(0, origin - context) : origin]
                expected.append(len(set(known[~np.isnan(known)])) > 1)
            assert varied_before(y, context).tolist() == expected


def test_the_parts_follow_each_other():
    y = np.sin(np.arange(60.0))
    parts = split(panel_from_arrays([y, y[:13], y[:3]]), 8, 4, 2, 0.25)
    train, validation, calibration, trained = parts
    # 60 steps: 12 calibrate, 8 before them validate, and what is trained on ends before these.
    first = train.series == 0
    assert train.steps[first].tolist() == list(range(4, 37))
    assert trained.tolist() == [40, 5, 0]
    assert validation.steps[validation.series == 0].tolist() == [40, 44]
    assert calibration.steps[calibration.series == 0].tolist() == [48, 52, 56]
    # 13 steps: too few to train on, none calibrate.
    assert validation.steps[validation.series == 1].tolist() == [5, 9]
    assert 2 not in np.concatenate([one.series for one in parts[:3]])


def test_windows_that_teach_nothing_are_left_out():
    y = np.sin(np.arange(40.0))
    y[10:25] = 1.0
    y[30:] = np.nan
    train = split(panel_from_arrays(y), 8, 2, 0, 0.0).train
    assert set(range(2, 39)) - set(train.steps) == {*range(18, 26), *range(30, 39)}


@pytest.mark.parametrize(
    ("array", "horizon", "message"),
    [
        (
            np.sin(np.arange(20.0)),
            8,
            "horizon 8 .* needs a series of 24 steps .* the longest has 20",
        ),
        (np.ones(99), 8, "there is nothing to learn: every series is constant"),
    ],
)
def test_what_cannot_be_learned_from_is_said(array, horizon, message):
    with pytest.raises(ValueError, match=message):
        split(panel_from_arrays(array), 16, horizon, 1, 0.0)


def test_every_window_is_drawn_and_all_alike():
    origins = Origins(np.arange(100) // 50, np.arange(100) % 50)
    generator = np.random.default_rng(0)
    seen = np.concatenate([drawn(origins, 10, generator).steps for _ in range(500)])
    assert np.bincount(seen, minlength=50).min() > 60
    assert drawn(origins, 100, generator) is origins


def test_covariates_are_learned_and_unseen_categories_named():
    given = panel()
    encoding = Encoding.fit(given, NAMES)
    numbers = Panel(["a", "b"], [0, 0], 1, given.values, [(1,), (3.0,)])
    learned = Encoding.fit(numbers, NAMES)
    assert learned.describe(numbers, NAMES).tolist() == [[-1], [1]]
    with pytest.raises(ValueError, match=r"series 'b': kind 3.0 was not there in fit, .* 'x', 'y'"):
        encoding.describe(Panel(["a", "b"], [0, 0], 1, [], [("x",), (3.0,)]), NAMES)
    with pytest.raises(ValueError, match="series 'a': kind is 'x', in fit it was numbers"):
        learned.describe(given, NAMES)
