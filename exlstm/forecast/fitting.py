"""What is done with a model and windows: train it, calibrate it, forecast."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from exlstm.estimators import Training, train
from exlstm.forecast.conformal import widened, widenings
from exlstm.forecast.splits import Origins, Split, drawn
from exlstm.forecast.windows import Windows
from exlstm.models.forecaster import XLSTMForecastModel

BATCH = 256
"""Windows that are forecast at once."""

_ROWS_OF_START = 4
"""Windows the start is computed from, for each that an epoch draws."""


def learn(
    model: XLSTMForecastModel,
    windows: Windows,
    split: Split,
    training: Training,
    windows_per_epoch: int,
    *,
    seed: int,
    progress: Callable[[dict[str, float]], object] | None,
) -> list[dict[str, float]]:
    """Train `model` in place, from its start in closed form, on windows drawn anew in every epoch.

    Returns:
        A line an epoch.
    """
    generator = np.random.default_rng(seed)
    _start(model, windows, split, _ROWS_OF_START * windows_per_epoch, generator)
    epoch = Origins(np.empty(0, int), np.empty(0, int))
    count = min(windows_per_epoch, len(split.train.steps))
    left = 0

    def loss(rows: torch.Tensor) -> torch.Tensor:
        nonlocal epoch, left
        if left == 0:
            epoch, left = drawn(split.train, count, generator), count
        left -= len(rows)
        batch = windows.batch(epoch.series[rows], epoch.steps[rows])
        return model.loss(batch.target, batch.truth, **batch.covariates())

    def validation() -> float:
        total = 0.0
        for series, steps in pieces(split.validation):
            batch = windows.batch(series, steps)
            value = model.loss(batch.target, batch.truth, **batch.covariates())
            total += value.item() * len(steps)
        return total / len(split.validation.steps)

    has_validation = len(split.validation.steps) > 0
    return train(
        model,
        count,
        loss,
        validation if has_validation else None,
        training,
        seed=seed,
        progress=progress,
    )


def _start(
    model: XLSTMForecastModel,
    windows: Windows,
    split: Split,
    count: int,
    generator: np.random.Generator,
) -> None:
    rows = windows.batch(*drawn(split.train, count, generator))
    validation = None
    if len(split.validation.steps):
        chosen = windows.batch(*drawn(split.validation, count, generator))
        validation = chosen.target, chosen.truth
    model.start_from(rows.target, rows.truth, validation)


@torch.inference_mode()
def calibrate(
    model: XLSTMForecastModel, windows: Windows, origins: Origins, levels: Sequence[float]
) -> np.ndarray:
    """Learn how much wider each interval must be; see `widenings`."""
    truth, quantiles = [], []
    for series, steps in pieces(origins):
        batch = windows.batch(series, steps)
        truth.append(batch.truth.double().numpy())
        quantiles.append(model(batch.target, **batch.covariates()).double().numpy())
    if not truth:
        raise ValueError("conformal: no window is left to calibrate with, raise calibration_share")
    return widenings(np.concatenate(truth), np.concatenate(quantiles), levels)


@torch.inference_mode()
def forecast(
    model: XLSTMForecastModel, windows: Windows, origins: Origins, wider: np.ndarray | None
) -> np.ndarray:
    """Forecast windows: quantiles (n, horizon, Q) in the units of the series."""
    found = []
    for series, steps in pieces(origins):
        batch = windows.batch(series, steps)
        quantiles = model(batch.target, **batch.covariates())
        if wider is not None:
            quantiles = torch.from_numpy(widened(quantiles.double().numpy(), wider))
        found.append(batch.in_units(quantiles))
    return np.concatenate(found)


def pieces(origins: Origins) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split windows into batches."""
    parts = range(0, len(origins.steps), BATCH)
    return [(origins.series[at : at + BATCH], origins.steps[at : at + BATCH]) for at in parts]
