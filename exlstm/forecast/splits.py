"""Which windows train, which choose the best epoch, and which calibrate: earlier, later, last."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from exlstm.forecast.panel import Panel
from exlstm.forecast.windows import varied_before


class Origins(NamedTuple):
    """Windows by the place of their series in the panel and their first step ahead."""

    series: np.ndarray
    steps: np.ndarray


class Split(NamedTuple):
    """The windows of a fit; the truth of each part lies behind that of the part before.

    Attributes:
        train: All windows of what is trained on.
        validation: The last ones before what calibrates, without overlap.
        calibration: The last ones of all, without overlap.
        trained: Steps of each series that are trained on.
    """

    train: Origins
    validation: Origins
    calibration: Origins
    trained: np.ndarray


def split(
    panel: Panel,
    context_length: int,
    horizon: int,
    validation_windows: int,
    calibration_share: float,
) -> Split:
    """Split a panel in time, each series by itself.

    A window has at least as many steps behind it as ahead, or `context_length` if that is less, and
    two different numbers among them. From a series too short for all parts come those that end
    it: it is still forecast.

    Raises:
        ValueError: No window is left to train on, or to validate or calibrate with where these are
            asked for.
    """
    least = max(2, min(context_length, horizon))
    parts: tuple[list, list, list] = ([], [], [])
    trained = []
    for series, values in enumerate(panel.values):
        target = values[:, 0]
        usable = varied_before(target, context_length)
        known = np.r_[0, np.cumsum(~np.isnan(target))]
        calibrated = int(calibration_share * len(target)) // horizon * horizon
        begin_calibration = len(target) - calibrated
        end = begin_calibration - validation_windows * horizon
        origins = (
            np.arange(least, end - horizon + 1),
            np.arange(end, begin_calibration, horizon),
            np.arange(begin_calibration, len(target), horizon),
        )
        for part, steps in zip(parts, origins, strict=True):
            steps = steps[steps >= least]
            steps = steps[usable[steps] & (known[steps + horizon] > known[steps])]
            part.append(np.stack([np.full(len(steps), series), steps]))
        trained.append(max(end, 0))
    train, validation, calibration = (Origins(*np.concatenate(part, 1)) for part in parts)
    longest = int(panel.lengths.max())
    if not len(train.steps):
        needed = least + (1 + validation_windows) * horizon
        asked = f"horizon {horizon} with {validation_windows} validation windows"
        if longest * (1 - calibration_share) < needed:
            raise ValueError(
                f"{asked} is too long for the data: it needs a series of {needed} steps to learn "
                f"from, the longest has {int(longest * (1 - calibration_share))}"
            )
        raise ValueError(
            "there is nothing to learn: every series is constant or nearly all missing"
        )
    if validation_windows and not len(validation.steps):
        raise ValueError("no window is left to validate with: give validation_windows=0")
    return Split(train, validation, calibration, np.array(trained))


def drawn(origins: Origins, count: int, generator: np.random.Generator) -> Origins:
    """Draw one window out of each of `count` equal shares of all; all where they are not more.

    Example:
        >>> all_of_them = Origins(np.zeros(10, int), np.arange(10))
        >>> drawn(all_of_them, 5, np.random.default_rng(0)).steps // 2
        array([0, 1, 2, 3, 4])
    """
    total = len(origins.steps)
    if total <= count:
        return origins
    places = ((np.arange(count) + generator.random(count)) * total / count).astype(np.int64)
    places = np.minimum(places, total - 1)
    return Origins(origins.series[places], origins.steps[places])
