"""Small records of two kinds."""

import numpy as np
import pandas as pd

SMALL = {"d_model": 16, "max_epochs": 6, "learning_rate": 1e-2, "random_state": 0}


def waves(number=40, length=12, seed=0):
    """Two channels that rise or fall, some values missing."""
    rng = np.random.default_rng(seed)
    y = np.array(["falls", "rises"])[np.arange(number) % 2]
    slope = np.where(y == "rises", 1.0, -1.0)[:, None] * np.linspace(-1, 1, length)
    X = np.stack((slope, -3 * slope + 50), 2) + 0.2 * rng.normal(size=(number, length, 2))
    missing = rng.random(X.shape) < 0.1
    missing[:, 0] = False
    X[missing] = np.nan
    return X, y


def events(number=40, seed=0):
    """A long table of codes and one number: events are rarer where the class is 1."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(number):
        times = np.cumsum(rng.exponential(1 + 9 * (patient % 2), size=rng.integers(3, 9)))
        for time in times:
            code = rng.choice(["a", "b", "c"])
            rows.append((f"p{patient}", time, code, rng.normal() if code == "a" else np.nan))
    return pd.DataFrame(rows, columns=["id", "time", "code", "level"]), np.arange(number) % 2
