"""Scores against numbers worked out by hand, conformal intervals against their guarantee."""

import numpy as np
import pytest

from exlstm.forecast import coverage, crps, mase, pinball, seasonal_error, smape, sql, wql
from exlstm.forecast.conformal import check_symmetric, widened, widenings
from exlstm.forecast.naive import seasonal_naive

NAN = float("nan")


def test_seasonal_error():
    assert seasonal_error([1, 4, 2, 2]) == pytest.approx((3 + 2 + 0) / 3)
    assert seasonal_error([1, NAN, 2, 5], 2) == 1.0
    assert np.isnan(seasonal_error([3, 3, 3]))
    assert np.isnan(seasonal_error([1, 2], 5))
    with pytest.raises(ValueError, match="season_length must be at least 1, got 0"):
        seasonal_error([1, 2], 0)


def test_mase_and_smape():
    assert mase([1, NAN, 5], [2, 9, 2], 2.0) == pytest.approx((1 + 3) / 2 / 2)
    # The second series has no scale and is left out.
    assert mase([[1, 2], [3, 4]], [[3, 2], [0, 0]], [2.0, NAN]) == 0.5
    assert smape([1, 2, NAN], [3, 2, 7]) == pytest.approx((2 * 2 / 4 + 0) / 2)
    assert smape([5], [-5]) == 2.0
    assert np.isnan(mase([NAN], [1], 1.0))
    with pytest.raises(
        ValueError, match=r"forecast \(2,\) must have the shape of the truth \(1,\)"
    ):
        mase([1], [1, 2], 1.0)


def test_scores_of_quantiles():
    truth, quantiles, levels = [4.0, NAN, 10.0], [[2, 6], [0, 0], [12, 12]], (0.25, 0.75)
    # 4 lies 2 above 2 and 2 below 6; 10 lies 2 below both.
    expected = [[0.5, 0.5], [NAN, NAN], [1.5, 0.5]]
    assert np.array_equal(pinball(truth, quantiles, levels), expected, equal_nan=True)
    assert wql(truth, quantiles, levels) == pytest.approx(2 * 3.0 / 2 / 14)
    assert sql(truth, quantiles, levels, 4.0) == pytest.approx(2 * 3.0 / 4 / 4)
    # Each level stands for half of [0, 1].
    assert crps(truth, quantiles, levels) == pytest.approx((2 * 0.5 + 2 * 1.0) / 2)
    assert coverage(truth, [2, 0, 12], [6, 0, 12]) == 0.5
    with pytest.raises(ValueError, match=r"quantiles \(3, 2\) must be \(3, 1\)"):
        pinball(truth, quantiles, (0.5,))


def test_crps_from_many_quantiles_is_that_of_the_distribution():
    """Of the uniform distribution on [0, 1]: (y³ + (1 - y)³) / 3."""
    levels = (np.arange(1000) + 0.5) / 1000
    truth = np.array([0.0, 0.3, 1.0])
    expected = (truth**3 + (1 - truth) ** 3).mean() / 3
    assert crps(truth, np.tile(levels, (3, 1)), levels) == pytest.approx(expected, abs=1e-5)


def test_seasonal_naive():
    history = np.array([1.0, 2, 3, 4, 5, NAN, 7])
    forecast = seasonal_naive(history, 4, 3, (0.5,))
    assert forecast[:, 0].tolist() == [5, 3, 7, 5]  # step 5 is missing, a season before it is not
    # Differences over a season: 3, 3, (none), 3; one and two seasons ahead.
    low = seasonal_naive(history, 4, 3, (0.15865525393145707,))
    assert np.allclose(forecast - low, 3 * np.sqrt([1, 1, 1, 2])[:, None])
    assert seasonal_naive(np.array([NAN, 4, NAN]), 2, 3, (0.5, 0.9)).tolist() == [[4, 4], [4, 4]]


def test_widenings_are_the_right_order_statistics():
    truth = np.arange(1.0, 10.0)[:, None]
    quantiles = np.zeros((9, 1, 5))
    # ⌈10 * 0.8⌉ = 8th and ⌈10 * 0.5⌉ = 5th smallest of 1 ... 9.
    levels = (0.1, 0.25, 0.5, 0.75, 0.9)
    assert widenings(truth, quantiles, levels).tolist() == [[8, 5]]
    truth[0] = NAN  # then ⌈9 * 0.8⌉ = 8th and ⌈9 * 0.5⌉ = 5th of 2 ... 9
    assert widenings(truth, quantiles, levels).tolist() == [[9, 6]]


def test_too_few_windows_cannot_promise():
    with pytest.raises(ValueError, match=r"3 calibration windows .* 0.1 to 0.9, it takes 4"):
        widenings(np.zeros((3, 1)), np.zeros((3, 1, 2)), (0.1, 0.9))
    assert widenings(np.zeros((4, 1)), np.zeros((4, 1, 2)), (0.1, 0.9)).shape == (1, 1)
    for levels in ((0.1, 0.8), (0.5,)):
        with pytest.raises(ValueError, match="must come in pairs"):
            check_symmetric(levels)


def test_widened_quantiles_never_cross():
    quantiles = np.array([[0.0, 4.0, 5.0, 6.0, 10.0]])
    assert widened(quantiles, np.array([[1.0, 2.0]])).tolist() == [[-1, 2, 5, 8, 11]]
    # The inner one becomes wider than the outer one, or is turned round.
    assert widened(quantiles, np.array([[0.0, 7.0]])).tolist() == [[-3, -3, 5, 13, 13]]
    assert widened(quantiles, np.array([[-9.0, -9.0]])).tolist() == [[5, 5, 5, 5, 5]]
    even = np.array([[1.0, 2.0, 4.0, 5.0]])
    assert widened(even, np.array([[0.0, -9.0]])).tolist() == [[1, 3, 3, 5]]


@pytest.mark.parametrize("n", [9, 40])
def test_conformal_intervals_cover_what_they_promise(n):
    """Over many draws of exchangeable windows, whose quantiles are far too narrow or too wide.

    The share covered lies in [0.8, 0.8 + 1 / (n + 1)]; its standard error here is below 0.005.
    """
    generator = np.random.default_rng(0)
    levels, covered = (0.1, 0.9), []
    for _ in range(2000):
        truth = generator.standard_t(3, size=(n + 4, 2))
        quantiles = np.stack([np.full((n + 4, 2), -0.1), np.full((n + 4, 2), 0.1)], -1)
        quantiles[:, 1] *= 100  # at the second step too wide
        wider = widenings(truth[:n], quantiles[:n], levels)
        interval = widened(quantiles[n:], wider)
        covered.append((truth[n:] >= interval[..., 0]) & (truth[n:] <= interval[..., 1]))
    share = np.mean(covered, axis=(0, 1))
    assert np.all(share > 0.8 - 0.015)
    assert np.all(share < 0.8 + 1 / (n + 1) + 0.015)
