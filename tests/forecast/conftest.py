"""Small panels, and a forecaster fitted once."""

import numpy as np
import pandas as pd
import pytest

from exlstm.forecast import XLSTMForecaster

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


@pytest.fixture(scope="session")
def frame():
    return waves()


@pytest.fixture(scope="session")
def fitted(frame):
    """Not to be changed: `copy.deepcopy` it first."""
    return XLSTMForecaster(**SMALL).fit(frame)
