"""Anomalies in the files of the Numenta Anomaly Benchmark, found without their labels.

    python benchmarks/anomalies.py --data FOLDER_OF_NAB [--seeds 3] [--rows NAME ...]

Every method learns from a whole file and scores the same file, as the unsupervised track of TSB-AD
does: the first 15 % that NAB gives for that are 170 steps of the shortest file, too few to train a
network on. No label is read before all is scored. The networks differ in one layer: in place of
the xLSTM, one `nn.LSTM` of the same width (and all but the same number of weights), with the same
loss, windows and steps. The learning rate is that of 0.003, 0.01 and 0.03 with the least held-out
loss in prediction, for each on the same four files; it is 0.03 for both.

All scores go through the same causal exponential average, of several half-lives. It begins at the
median of the file.

Each fit is a line of `results/anomalies.jsonl` as soon as it is done; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from record import RESULTS, record, require_green
from torch import nn

from exlstm.anomaly import XLSTMAnomalyDetector, average_precision, best_f1, vus_pr
from exlstm.anomaly.series import exponential_average

Array = NDArray[np.float64]
HALF_LIVES = (0, 8, 32, 128)
BUFFER = 100
WINDOW = 100  # of the moving z-score
LINES = RESULTS / "anomalies.jsonl"


class LSTMAnomalyDetector(XLSTMAnomalyDetector):
    """The same with an LSTM."""

    def _backbone(self) -> nn.Module:
        return nn.LSTM(self.d_model, self.d_model, batch_first=True)


def z_score(x: Array, _: int) -> tuple[Array, dict[str, Any]]:
    return np.abs(x - x.mean()) / x.std(), {}


def squared_z_score(x: Array, _: int) -> tuple[Array, dict[str, Any]]:
    return z_score(x, 0)[0] ** 2, {}


def moving_z_score(x: Array, _: int) -> tuple[Array, dict[str, Any]]:
    """Against the 100 steps before."""
    before = pd.Series(x).shift(1).rolling(WINDOW, min_periods=5)
    scale = before.std().to_numpy() + 1e-3 * x.std()
    return np.nan_to_num(np.abs(x - before.mean().to_numpy()) / scale), {}


def network(kind: type[XLSTMAnomalyDetector], **settings: Any) -> Callable[..., Any]:
    def score(x: Array, seed: int) -> tuple[Array, dict[str, Any]]:
        detector = kind(half_life=0, random_state=seed, **settings)
        scores = detector.fit(x).decision_scores_
        return scores, {
            "parameters": sum(weight.numel() for weight in detector.network_.parameters()),
            "held_out": min(line["validation"] for line in detector.history_),
        }

    return score


ROWS: dict[str, Callable[..., tuple[Array, dict[str, Any]]]] = {
    "z-score": z_score,
    "z-score, squared": squared_z_score,
    "moving z-score": moving_z_score,
    "nn.LSTM, prediction": network(LSTMAnomalyDetector),
    "xLSTM, prediction": network(XLSTMAnomalyDetector),
    "nn.LSTM, reconstruction": network(LSTMAnomalyDetector, method="reconstruction"),
    "xLSTM, reconstruction": network(XLSTMAnomalyDetector, method="reconstruction"),
    "nn.LSTM, one step": network(LSTMAnomalyDetector, span=1),
    "xLSTM, one step": network(XLSTMAnomalyDetector, span=1),
}


def read_file(path: Path, windows: list[list[str]]) -> tuple[Array, Array]:
    """The values and the labels of a file."""
    frame = pd.read_csv(path, parse_dates=["timestamp"])
    times, labels = frame["timestamp"], np.zeros(len(frame))
    for first, last in windows:
        labels[(times >= pd.Timestamp(first)) & (times <= pd.Timestamp(last))] = 1
    return frame["value"].to_numpy(dtype=float), labels


def measure(scores: Array, labels: Array) -> dict[str, list[float]]:
    """Each figure at each half-life."""
    averaged = [exponential_average(scores, each, float(np.median(scores))) for each in HALF_LIVES]
    return {
        "vus_pr": [vus_pr(labels, each, BUFFER) for each in averaged],
        "f1": [best_f1(labels, each) for each in averaged],
        "average_precision": [average_precision(labels, each) for each in averaged],
    }


def summary(lines: list[dict[str, Any]], files: int) -> list[dict[str, Any]]:
    """A row a method, over the seeds that are complete: means over files, then over seeds."""
    rows = []
    for name in ROWS:
        seeds: dict[int, list[dict[str, Any]]] = {}
        for line in lines:
            if line["row"] == name:
                seeds.setdefault(line["seed"], []).append(line)
        complete = {seed: found for seed, found in seeds.items() if len(found) == files}
        if not complete:
            continue
        row: dict[str, Any] = {"row": name, "seeds": sorted(complete)}
        for figure in ("vus_pr", "f1", "average_precision"):
            means = np.array(
                [np.mean([line[figure] for line in found], axis=0) for found in complete.values()]
            )
            row[figure] = means.mean(axis=0).round(4).tolist()
            row[f"{figure}_of_seeds"] = means.round(4).tolist()
        every = [line for found in complete.values() for line in found]
        for figure in ("parameters", "held_out", "seconds"):
            if figure in every[0]:
                row[figure] = round(float(np.mean([line[figure] for line in every])), 4)
        row["by_file"] = {
            line["file"]: np.mean(
                [other["vus_pr"] for other in every if other["file"] == line["file"]], axis=0
            ).round(4).tolist()
            for line in every
        }  # fmt: skip
        rows.append(row)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="the folder of NAB")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    arguments = parser.parse_args()
    require_green("tests/anomaly")
    torch.set_num_threads(1)
    windows = json.loads((arguments.data / "labels" / "combined_windows.json").read_text())
    paths = sorted((arguments.data / "data").glob("*/*.csv"))
    names = ["/".join(path.parts[-2:]) for path in paths]
    lines = [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []
    done = {(line["row"], line["seed"], line["file"]) for line in lines}
    for seed in range(arguments.seeds):
        for row in arguments.rows:
            if seed > 0 and "z-score" in row:
                continue
            for path, name in zip(paths, names, strict=True):
                if (row, seed, name) in done:
                    continue
                x, labels = read_file(path, windows[name])
                start = time.perf_counter()
                scores, facts = ROWS[row](x, seed)
                facts["seconds"] = time.perf_counter() - start
                line = {"row": row, "seed": seed, "file": name, **facts, **measure(scores, labels)}
                lines.append(line)
                with LINES.open("a") as file:
                    file.write(json.dumps(line) + "\n")
            print(seed, row, flush=True)
    rows = summary(lines, len(paths))
    for row in rows:
        print(row["row"], row["vus_pr"], row["f1"], flush=True)
    settings = {"half_lives": HALF_LIVES, "buffer": BUFFER, "files": names}
    record("anomalies", {"settings": settings, "rows": rows})
