"""Forecast the daily sales of several shops, with a promotion known ahead, and stream new days in.

python examples/forecasting.py --out FOLDER draws a picture and saves the forecaster. The sales are
made up: a week's rhythm, a slow drift, and half as much again on days with a promotion.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from exlstm.forecast import XLSTMForecaster

HORIZON = 14
WEEK = np.array([0.8, 0.9, 0.9, 1.0, 1.2, 1.5, 0.7])


def sales(shops: int, days: int, seed: int = 0) -> pd.DataFrame:
    """A long frame: shop, day, how much was sold, and whether there was a promotion."""
    generator = np.random.default_rng(seed)
    frames = []
    for shop in range(shops):
        drift = np.exp(0.01 * generator.normal(size=days).cumsum())
        promotion = generator.random(days) < 0.15
        noise = np.exp(0.05 * generator.normal(size=days))
        y = 100 * (1 + shop) * WEEK[np.arange(days) % 7] * drift * (1 + 0.5 * promotion) * noise
        frame = {
            "unique_id": f"shop {shop}",
            "ds": pd.date_range("2024-01-01", periods=days, freq="D"),
            "y": y,
            "promotion": promotion.astype(float),
        }
        frames.append(pd.DataFrame(frame))
    return pd.concat(frames, ignore_index=True)


def main(out: Path, shops: int, days: int, max_epochs: int) -> pd.DataFrame:
    """Cross-validate, fit, forecast, take a new day in; return the scores."""
    frame = sales(shops, days)
    last = frame["ds"].max() - pd.Timedelta(days=HORIZON)
    history, ahead = frame[frame["ds"] <= last], frame[frame["ds"] > last]
    forecaster = XLSTMForecaster(
        HORIZON, future=("promotion",), max_epochs=max_epochs, random_state=0
    )

    scores = forecaster.cross_validate(history, windows=2).scores
    print(scores[scores["origin"] == "all"].to_string(index=False))

    forecaster.fit(history)
    planned = ahead[["unique_id", "ds", "promotion"]]
    print(forecaster.predict_quantiles(future=planned, quantiles=(0.1, 0.5, 0.9)).head(3))

    out.mkdir(parents=True, exist_ok=True)
    forecaster.plot(future=planned).savefig(out / "sales.png")
    forecaster.save(out / "forecaster")

    # The first of these days is over: no refit, only the state moves on.
    over = ahead["ds"] == ahead["ds"].min()
    forecaster.update(ahead[over])
    later = pd.concat(
        [planned[~over], planned[over].assign(ds=ahead["ds"].max() + pd.Timedelta(days=1))]
    )
    print(forecaster.predict(future=later).head(3))
    return scores


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--shops", type=int, default=8)
    parser.add_argument("--days", type=int, default=400)
    parser.add_argument("--max-epochs", type=int, default=10)
    arguments = parser.parse_args()
    main(arguments.out, arguments.shops, arguments.days, arguments.max_epochs)
