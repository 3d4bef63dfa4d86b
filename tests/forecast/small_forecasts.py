"""What the tests of forecasting share: small settings and panels."""

import numpy as np
import pandas as pd

SMALL = {
    "horizon": 4,
    "context_length": 24,
    "patch_length": 8,
    "d_model": 16,
    "num_heads": 2,
    "pattern": "s",
    "max_epochs": 2,
    "windows_per_epoch": 32,
    "random_state": 0,
}


def waves(count=3, length=80, freq="h", seed=0):
    """Long frame of noisy sines, of lengths `length`, `length` + 7, ..."""
    generator = np.random.default_rng(seed)
    frames = []
    for i in range(count):
        steps = length + 7 * i
        if isinstance(freq, str):
            ds = pd.date_range("2024-01-01", periods=steps, freq=freq)
        else:
            ds = 5 + freq * np.arange(steps)
        y = 10 * i + np.sin(np.arange(steps) / 3 + i) + 0.1 * generator.normal(size=steps)
        frames.append(pd.DataFrame({"unique_id": f"s{i}", "ds": ds, "y": y}))
    return pd.concat(frames, ignore_index=True)


HOUR = pd.Timedelta(hours=1)


def same(one, other):
    pd.testing.assert_frame_equal(one, other, check_exact=True)


NAMES = {"static": ("kind",), "past": ("wind",), "future": ("price",)}


def covariates(frame, seed=0):
    generator = np.random.default_rng(seed)
    return frame.assign(
        kind=frame["unique_id"].map({"s0": "x", "s1": "y"}),
        wind=generator.normal(size=len(frame)),
        price=generator.normal(size=len(frame)),
    )


def ahead(frame, steps=4):
    ends = frame.groupby("unique_id")["ds"].max()
    rows = [(id, end + k * HOUR, k / 4) for id, end in ends.items() for k in range(1, steps + 1)]
    return pd.DataFrame(rows, columns=["unique_id", "ds", "price"])
