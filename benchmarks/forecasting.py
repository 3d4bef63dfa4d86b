"""ETTh1, multivariate, look-back 512: ours beside a seasonal naive, a ridge NLinear, an `nn.LSTM`.

The usual protocol: 12, 4 and 4 months, every column a series of its own, z-scores by the training
part, every window of the test part. All that is chosen is chosen on the validation part. A row that
the result has with the same setting is not computed again, so that a run may be interrupted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from estimator_tables import forecasting
from record import RESULTS, record, require_green
from torch import Tensor, nn

from exlstm.estimators.training import Training, train
from exlstm.models.forecaster import ForecasterConfig, XLSTMForecastModel

LOOK_BACK, SEASON = 512, 24
BORDERS = {"train": (LOOK_BACK, 8640), "validation": (8640, 11520), "test": (11520, 14400)}
HORIZONS = (96, 192, 336, 720)
QUANTILES = tuple(round(0.1 * j, 1) for j in range(1, 10))
PUBLISHED = {
    "xLSTM-Mixer": {"MSE": 0.397, "MAE": 0.420},
    "xLSTMTime": {"MSE": 0.408, "MAE": 0.428},
    "DLinear": {"MSE": 0.423, "MAE": 0.437},
    "LSTM": {"MSE": 1.198, "MAE": 0.821},
}
"""Averages over the horizons, as printed by the paper of xLSTM-Mixer (NeurIPS 2025)."""


class Series:
    """The columns as z-scores, and the windows of each part."""

    def __init__(self, path: Path) -> None:
        rows = np.genfromtxt(path, delimiter=",", skip_header=1)[: BORDERS["test"][1], 1:]
        before = rows[: BORDERS["train"][1]]
        self.values = torch.tensor((rows - before.mean(0)) / before.std(0), dtype=torch.float32).T
        steps = self.values[:, : BORDERS["train"][1]]
        # What MASE divides by: the error of the seasonal naive one step ahead in the training part.
        self.naive = (steps[:, SEASON:] - steps[:, :-SEASON]).abs().mean(1)

    def windows(self, part: str, horizon: int, stride: int = 1) -> tuple[Tensor, Tensor]:
        """Windows (7 * n, look-back) and what follows (7 * n, horizon), column by column."""
        first, last = BORDERS[part]
        steps = self.values[:, first - LOOK_BACK : last].unfold(1, LOOK_BACK + horizon, stride)
        both = steps.flatten(0, 1)
        return both[:, :LOOK_BACK], both[:, LOOK_BACK:]


class DirectLSTM(nn.Module):
    """The same patches, normalisation and quantiles, and one head on the last output."""

    def __init__(self, horizon: int, patch_length: int, d_model: int, dropout: float) -> None:
        super().__init__()
        self.patch_length = patch_length
        self.lstm = nn.LSTM(patch_length, d_model, num_layers=2, dropout=dropout, batch_first=True)
        self.head = nn.Linear(d_model, horizon * len(QUANTILES))

    def forward(self, target: Tensor) -> Tensor:
        mean = target.mean(1, keepdim=True)
        deviation = target.std(1, keepdim=True) + 1e-5
        steps = F.pad((target - mean) / deviation, (-LOOK_BACK % self.patch_length, 0))
        output, _ = self.lstm(steps.unflatten(1, (-1, self.patch_length)))
        quantiles = self.head(output[:, -1]).unflatten(1, (-1, len(QUANTILES)))
        return mean[..., None] + deviation[..., None] * quantiles

    def loss(self, target: Tensor, truth: Tensor, *, own_units: bool) -> Tensor:
        assert own_units
        error = truth[..., None] - self(target)
        levels = torch.tensor(QUANTILES)
        each = torch.maximum(levels * error, (levels - 1) * error).mean(-1)
        return 2 * each.mean()


def forecast(model: nn.Module, target: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(rows) for rows in target.split(512)])


def fit(
    model: XLSTMForecastModel | DirectLSTM,
    series: Series,
    horizon: int,
    setting: dict[str, Any],
    seed: int,
) -> list[dict[str, float]]:
    """Train; the validation part says which epoch is best."""
    target, truth = series.windows("train", horizon, setting["stride"])
    held_target, held_truth = series.windows("validation", horizon, setting["validation_stride"])

    def validation() -> float:
        pieces = zip(held_target.split(512), held_truth.split(512), strict=True)
        losses = [(model.loss(x, y, own_units=True), len(x)) for x, y in pieces]
        return sum(loss.item() * rows for loss, rows in losses) / len(held_target)

    return train(
        model,
        len(target),
        lambda rows: model.loss(target[rows], truth[rows], own_units=True),
        validation,
        Training(**setting["training"]),
        seed=seed,
        progress=lambda line: print("   ", line, flush=True),
    )


def scores(
    series: Series, truth: Tensor, quantiles: Tensor | None, point: Tensor
) -> dict[str, Any]:
    """Of z-scores; the point is the mean, the middle quantile the median where there are any."""
    median = point if quantiles is None else quantiles[..., len(QUANTILES) // 2]
    columns = (truth - median).abs().unflatten(0, (len(series.values), -1)).mean((1, 2))
    found: dict[str, Any] = {
        "MSE": (truth - point).square().mean().item(),
        "MAE": columns.mean().item(),
        "MASE": (columns / series.naive).mean().item(),
    }
    if quantiles is not None:
        found["MSE of the median"] = (truth - median).square().mean().item()
        losses = []
        for level, quantile in zip(QUANTILES, quantiles.unbind(-1), strict=True):
            error = truth - quantile
            losses.append(2 * torch.maximum(level * error, (level - 1) * error).sum().item())
        found["WQL"] = sum(losses) / len(losses) / truth.abs().sum().item()
        found["coverage"] = [
            round((truth <= quantile).float().mean().item(), 3) for quantile in quantiles.unbind(-1)
        ]
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in found.items()
    }


def seasonal_naive(series: Series, horizon: int) -> dict[str, Any]:
    target, truth = series.windows("test", horizon)
    steps = LOOK_BACK - SEASON + torch.arange(horizon) % SEASON
    return scores(series, truth, None, target[:, steps])


def ridge_nlinear(series: Series, horizon: int) -> dict[str, Any]:
    """The line of our model alone."""
    config = ForecasterConfig(horizon=horizon, context_length=LOOK_BACK, d_model=8, pattern="s")
    model = XLSTMForecastModel(config)
    strength = start(model, series, horizon)
    target, truth = series.windows("test", horizon)
    last = target[:, -1:]
    with torch.no_grad():
        line = last + model.line(target - last)
    return {"strength": strength} | scores(series, truth, None, line)


def start(model: XLSTMForecastModel, series: Series, horizon: int) -> float | None:
    target, truth = series.windows("train", horizon, 2)
    validation = series.windows("validation", horizon)
    return model.start_from(target, truth, validation, own_units=True)


NETWORK = {"patch_length": 24, "d_model": 64, "dropout": 0.3}
TRAINING = {"max_epochs": 4, "batch_size": 32, "patience": 1}
RATES = (3e-4, 2e-3)
"""The validation part chooses among them."""


def network(name: str, series: Series, horizon: int, rate: float, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    setting = {"stride": 8, "validation_stride": 8, "training": TRAINING | {"learning_rate": rate}}
    began = time.process_time()
    if name == "nn.LSTM":
        model = DirectLSTM(horizon, NETWORK["patch_length"], NETWORK["d_model"], NETWORK["dropout"])
    else:
        config = ForecasterConfig(
            horizon=horizon, context_length=LOOK_BACK, quantiles=QUANTILES, pattern="s", **NETWORK
        )
        model = XLSTMForecastModel(config)
        start(model, series, horizon)
    lines = fit(model, series, horizon, setting, seed)
    seconds = time.process_time() - began
    target, truth = series.windows("test", horizon)
    quantiles = forecast(model, target)
    return {
        "validation": min(line["validation"] for line in lines),
        "seconds": round(seconds),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    } | scores(series, truth, quantiles, quantiles.mean(-1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="ETTh1.csv")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--horizons", type=int, nargs="*", default=HORIZONS)
    parser.add_argument("--networks", nargs="*", default=("xLSTM", "nn.LSTM"))
    arguments = parser.parse_args()
    require_green("tests/models/test_forecaster.py")
    path = RESULTS / "forecasting.json"
    rows = json.loads(path.read_text())["results"]["rows"] if path.exists() else []
    series = Series(arguments.data)

    def row(compute: Callable[[], dict[str, Any]], **setting: Any) -> dict[str, Any]:
        """That of the result, or a new one, which is written at once."""
        for known in rows:
            if setting.items() <= known.items():
                return known
        print(setting, flush=True)
        found = setting | compute()
        print("   ", found, flush=True)
        rows.append(found)
        record("forecasting", {"published": PUBLISHED, "network": NETWORK | TRAINING, "rows": rows})
        return found

    def trained(name: str, horizon: int, seed: int) -> None:
        def at(rate: float, seed: int) -> dict[str, Any]:
            compute = partial(network, name, series, horizon, rate, seed)
            return row(compute, model=name, horizon=horizon, rate=rate, seed=seed)

        best = min((at(rate, 0) for rate in RATES), key=lambda row: row["validation"])
        at(best["rate"], seed)

    for horizon in arguments.horizons:
        for name, compute in (("seasonal naive", seasonal_naive), ("ridge NLinear", ridge_nlinear)):
            row(partial(compute, series, horizon), model=name, horizon=horizon)
    for seed in range(arguments.seeds):
        for name in arguments.networks:
            for horizon in arguments.horizons:
                trained(name, horizon, seed)
    print(forecasting(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
