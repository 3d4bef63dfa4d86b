"""How far probabilities can be trusted: temperature scaling, and scores that see it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from sklearn.metrics import accuracy_score, f1_score, recall_score

_BINS = 15


def fit_temperature(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """The number between 0.05 and 20 by which logits (N, A) are best divided, by log loss.

    A right answer is worth (N + 1) / (N + A), Laplace's rule, not certainty: that is what a few
    records that are all right would ask for.

    Reference:
        Guo et al. 2017, https://arxiv.org/abs/1706.04599.
    """
    scores, classes = torch.from_numpy(logits).double(), torch.from_numpy(targets)

    smoothing = scores.shape[1] / sum(scores.shape)

    def log_loss(log_temperature: float) -> float:
        scaled = scores / np.exp(log_temperature)
        return F.cross_entropy(scaled, classes, label_smoothing=smoothing).item()

    found = minimize_scalar(log_loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
    return float(np.exp(found.x))


def expected_calibration_error(
    y: ArrayLike, probabilities: ArrayLike, classes: ArrayLike, num_bins: int = _BINS
) -> float:
    r"""$\sum_b \frac{|b|}{N} |\mathrm{accuracy}(b) - \mathrm{confidence}(b)|$ over equal bins b.

    Args:
        y: True classes, (N,).
        probabilities: (N, A).
        classes: The A classes.
        num_bins: Bins of the highest probability between 0 and 1.

    Example:
        >>> expected_calibration_error([0, 1], [[0.75, 0.25], [0.75, 0.25]], [0, 1])
        0.25
    """
    confidence, right = _confidence(y, probabilities, classes)
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(right))


def classification_scores(
    y: ArrayLike, probabilities: ArrayLike, classes: ArrayLike
) -> dict[str, float]:
    """Accuracy, balanced accuracy, macro F1, log loss and calibration error.

    Balanced accuracy and macro F1 are means over the classes that occur in `y`.

    Args:
        y: True classes, (N,).
        probabilities: (N, A), of `predict_proba`.
        classes: The A classes, `classes_`.

    Raises:
        ValueError: The sizes do not fit together.

    Example:
        >>> scores = classification_scores([0, 1], [[0.75, 0.25], [0.75, 0.25]], [0, 1])
        >>> list(scores)
        ['accuracy', 'balanced_accuracy', 'macro_f1', 'log_loss', 'calibration_error']
        >>> scores["accuracy"], scores["calibration_error"]
        (0.5, 0.25)
    """
    y, found, names = np.asarray(y), np.asarray(probabilities), np.asarray(classes)
    error = expected_calibration_error(y, found, names)  # checks the sizes
    predicted = names[found.argmax(1)]
    present: dict[str, Any] = {"labels": np.unique(y), "average": "macro", "zero_division": 0.0}
    of_truth = np.where(y[:, None] == names, found, 0.0).sum(1)
    return {
        "accuracy": float(accuracy_score(y, predicted)),
        "balanced_accuracy": float(recall_score(y, predicted, **present)),
        "macro_f1": float(f1_score(y, predicted, **present)),
        "log_loss": float(-np.log(np.maximum(of_truth, np.finfo(float).tiny)).mean()),
        "calibration_error": error,
    }


def _confidence(
    y: ArrayLike, probabilities: ArrayLike, classes: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The highest probability of each row, and whether it was of the true class."""
    truth, found, names = np.asarray(y), np.asarray(probabilities), np.asarray(classes)
    if found.shape != (len(truth), len(names)) or not len(truth):
        raise ValueError(
            f"probabilities must be (N, A) = ({len(truth)}, {len(names)}), got {found.shape}"
        )
    return found.max(1), (names[found.argmax(1)] == truth).astype(np.float64)
