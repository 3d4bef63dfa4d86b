"""Heartbeats: an xLSTM, an `nn.LSTM` in the same estimator, nearest neighbours and a linear model.

    python benchmarks/heartbeats.py --data ECG5000_part.txt

The file has a heartbeat a line: its class, then its values. Five folds, stratified, three times. A
class with fewer members than folds stays in training always and is never tested: its answers can
only be wrong. Scores are of the answers of all five folds together, not means over folds, in which
a rare class has one or two members.

What is open of both networks is chosen first, from the same candidates, by cross-validation on the
training rows of one fold of a split that is not among the three. These rows are tested in other
folds: four figures, not a network, have seen them.

A row that is in the results already is not computed again; `--fresh` forgets them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray
from record import RESULTS, record, require_green
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn

from exlstm.classify import XLSTMClassifier, classification_scores

FOLDS, SEEDS = 5, (0, 1, 2)
CHOICE_SEED, CHOICE_FOLDS = 7, 4
BANDS = (0, 1, 2, 3, 5, 7, 10, 14)
SETTINGS = {
    "stride": 4, "shift": 3, "noise": 0.1, "validation_fraction": 0, "max_epochs": 40,
    "d_model": 32,
}  # fmt: skip
CANDIDATES = [
    {"learning_rate": rate, "class_weight": weight}
    for rate, weight in itertools.product((3e-3, 1e-2), (None, "balanced"))
]
NETWORKS = 3  # whose logits are averaged


class _LSTM(nn.LSTM):
    """In the place of the stack."""

    # Without the state that `nn.LSTM.forward` also takes: the stack's callers give none.
    def forward(self, x: Tensor) -> tuple[Tensor, Any]:  # type: ignore[override]
        return super().forward(x)


class LSTMClassifier(XLSTMClassifier):
    """The same estimator around `nn.LSTM`."""

    def _network(self, config: Any) -> nn.Module:
        network = super()._network(config)
        width = config.d_model
        network.stack = _LSTM(width, width, 2, batch_first=True, dropout=config.dropout)
        return network


MODELS = {"xlstm": (XLSTMClassifier, {"pattern": "mm"}), "nn.LSTM": (LSTMClassifier, {})}


def dtw(X: NDArray[Any], Y: NDArray[Any], band: int) -> NDArray[np.float64]:
    """Distances (N, M) of all pairs under warping by at most `band` steps; all pairs at once."""
    time = X.shape[1]
    before = np.full((time + 1, len(X), len(Y)), np.inf)
    before[0] = 0.0
    for i in range(1, time + 1):
        now = np.full_like(before, np.inf)
        for j in range(max(1, i - band), min(time, i + band) + 1):
            cost = (X[:, i - 1, None] - Y[None, :, j - 1]) ** 2
            now[j] = cost + np.minimum(np.minimum(before[j], before[j - 1]), now[j - 1])
        before = now
    return np.sqrt(before[time])


class Data:
    """Heartbeats, and how they are split."""

    def __init__(self, path: Path) -> None:
        table = np.loadtxt(path)
        self.y, self.X = table[:, 0].astype(int), table[:, 1:]
        classes, members = np.unique(self.y, return_counts=True)
        self.members = dict(zip(classes.tolist(), members.tolist(), strict=True))
        self.tested = np.isin(self.y, classes[members >= FOLDS])
        self._distances: dict[int, NDArray[np.float64]] = {}

    def folds(
        self, seed: int, rows: NDArray[np.int64] | None = None, number: int = FOLDS
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Rows to train and to test on; those never tested are always among the first."""
        rows = self.tested.nonzero()[0] if rows is None else rows
        always = (~self.tested).nonzero()[0]
        split = StratifiedKFold(number, shuffle=True, random_state=seed)
        for train, test in split.split(rows, self.y[rows]):
            yield np.concatenate((rows[train], always)), rows[test]

    def distances(self, band: int) -> NDArray[np.float64]:
        """Of all heartbeats; they know no classes."""
        if band not in self._distances:
            self._distances[band] = dtw(self.X, self.X, band)
        return self._distances[band]


def network(name: str, choice: dict[str, Any], seed: int, num_networks: int) -> XLSTMClassifier:
    kind, own = MODELS[name]
    return kind(**SETTINGS, **own, **choice, num_networks=num_networks, random_state=seed)


def choose(data: Data, name: str) -> dict[str, Any]:
    """The candidate with the highest balanced accuracy plus macro F1, and the scores of all."""
    train, _ = next(data.folds(CHOICE_SEED))
    rows = train[data.tested[train]]
    scores = []
    for candidate in CANDIDATES:
        found = np.zeros((len(data.y), len(data.members)))
        for fit, test in data.folds(CHOICE_SEED, rows, CHOICE_FOLDS):
            model = network(name, candidate, CHOICE_SEED, 1).fit(data.X[fit], data.y[fit])
            found[test] = model.predict_proba(data.X[test])
        score = classification_scores(data.y[rows], found[rows], list(data.members))
        scores.append({**candidate, **_rounded(score)})
        print(name, scores[-1], flush=True)
    best = max(
        range(len(scores)), key=lambda i: scores[i]["balanced_accuracy"] + scores[i]["macro_f1"]
    )
    return {"chosen": CANDIDATES[best], "candidates": scores}


def answers(data: Data, name: str, choice: dict[str, Any], seed: int) -> dict[str, Any]:
    """A row of results: a method on the five folds of a seed."""
    start = time.perf_counter()
    classes = list(data.members)
    found = np.zeros((len(data.y), len(classes)))
    bands = []
    for train, test in data.folds(seed):
        if name in MODELS:
            model: Any = network(name, choice, seed, NETWORKS)
        elif name == "logistic regression":
            model = LogisticRegression(max_iter=10_000)
        else:
            band = best_band(data, train) if name == "1-NN DTW" else 0
            bands.append(band)
            nearest = train[data.distances(band)[np.ix_(test, train)].argmin(1)]
            found[test] = data.y[nearest, None] == classes
            continue
        found[test] = model.fit(data.X[train], data.y[train]).predict_proba(data.X[test])
    rows = data.tested
    scores = _rounded(classification_scores(data.y[rows], found[rows], classes))
    if name.startswith("1-NN"):  # they give no probabilities
        del scores["log_loss"], scores["calibration_error"]
    row = {"method": name, "seed": seed, **scores, "seconds": round(time.perf_counter() - start)}
    return row | ({"bands": bands} if name == "1-NN DTW" else {})


def best_band(data: Data, train: NDArray[np.int64]) -> int:
    """The band with the best balanced accuracy when each training row is left out once."""

    def score(band: int) -> float:
        distances = data.distances(band)[np.ix_(train, train)] + np.diag([np.inf] * len(train))
        return balanced_accuracy_score(data.y[train], data.y[train][distances.argmin(1)])

    return max(BANDS, key=score)  # the smallest of equal ones


def _rounded(scores: dict[str, float]) -> dict[str, float]:
    return {name: round(score, 4) for name, score in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--fresh", action="store_true", help="forget the rows that are there")
    arguments = parser.parse_args()
    require_green("tests/models/test_sequence_classifier.py")
    torch.set_num_threads(1)
    data = Data(arguments.data)
    setup = {
        "settings": SETTINGS, "candidates": CANDIDATES, "networks": NETWORKS,
        "members": {str(name): number for name, number in data.members.items()},
        "scikit-learn": sklearn.__version__,
    }  # fmt: skip
    results: dict[str, Any] = {"setup": setup, "choices": {}, "rows": []}
    file = RESULTS / "heartbeats.json"
    if file.exists() and not arguments.fresh:
        there = json.loads(file.read_text())["results"]
        if there["setup"] == setup:
            results = there
    for name in MODELS:
        if name not in results["choices"]:
            results["choices"][name] = choose(data, name)
            record("heartbeats", results)
    done = {(row["method"], row["seed"]) for row in results["rows"]}
    methods = ("logistic regression", "1-NN Euclid", "1-NN DTW", *reversed(MODELS))
    for seed, name in itertools.product(SEEDS, methods):
        if (name, seed) not in done:
            choice = results["choices"].get(name, {}).get("chosen", {})
            results["rows"].append(answers(data, name, choice, seed))
            print(results["rows"][-1], flush=True)
            record("heartbeats", results)


if __name__ == "__main__":
    main()
