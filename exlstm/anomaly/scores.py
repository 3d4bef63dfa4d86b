"""How well scores of steps find labelled anomalies, without a threshold or at the best one.

Nothing here is point-adjusted: a step counts as found if it was marked itself. To count a whole
anomaly as found at one hit makes random scores look good.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


def vus_pr(
    labels: ArrayLike,
    scores: ArrayLike,
    max_buffer: int = 100,
    *,
    num_thresholds: int | None = None,
) -> float:
    """Volume under the surface of precision and recall, over thresholds and buffers l = 0 .. L.

    With a buffer l, the steps d = 1 .. l // 2 outside an anomaly have the label sqrt(1 - d / l),
    those of two anomalies added, at most 1. Of the steps marked at a threshold, with
    y their labels, P the number of labelled steps and b the part of sum(y) that lies in buffers:

        precision = sum(y) / marked
        recall = min(1, sum(y) / (P + b / 2)) * (share of anomalies with a marked step)

    where an anomaly has its buffers, and anomalies whose buffers touch are one. The area for one
    l is the sum of precision times the growth of recall; the volume is the mean of the areas.

    Source: Paparrizos et al., Volume Under the Surface, VLDB 2022; the details as in its package.

    Args:
        labels: (T,), 0 or 1; at least one 1.
        scores: (T,), higher is more abnormal; finite.
        max_buffer: L.
        num_thresholds: `None` takes every threshold there is; a number, so many at equal distances
            in rank: 250 is what the published package does.

    Raises:
        ValueError: The arguments are not as above.

    Example:
        >>> round(vus_pr([0, 0, 1, 1, 0, 0], [0.1, 0.2, 0.9, 0.8, 0.2, 0.1], max_buffer=0), 3)
        1.0
    """
    labels, scores = _checked(labels, scores)
    if max_buffer < 0:
        raise ValueError(f"max_buffer must not be negative, got {max_buffer}")
    order, last = _ranking(scores)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = last[np.searchsorted(last, np.arange(len(order)))]  # marked from here on
    thresholds = last
    if num_thresholds is not None:
        chosen = np.linspace(0, len(scores) - 1, num_thresholds).astype(np.int64)
        thresholds = last[np.searchsorted(last, chosen)]
    starts, ends = _ranges(labels)
    found = np.cumsum(labels[order])[thresholds]
    areas = []
    for length in range(max_buffer + 1):
        buffers = _buffers(labels, starts, ends, length)
        buffered = np.cumsum(buffers[order])[thresholds]
        precision = (found + buffered) / (thresholds + 1)
        recall = np.minimum((found + buffered) / (labels.sum() + buffered / 2), 1.0)
        recall *= _share_hit(rank, starts, ends, length // 2, thresholds)
        areas.append(float(precision @ np.diff(recall, prepend=0.0)))
    return float(np.mean(areas))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Sum of precision times the growth of recall over all thresholds, step by step.

    Raises:
        ValueError: As `vus_pr`.

    Example:
        >>> round(average_precision([0, 1, 0, 1], [0.1, 0.9, 0.8, 0.7]), 4)
        0.8333
    """
    labels, scores = _checked(labels, scores)
    found, marked = _counts(labels, scores)
    return float((found / marked) @ np.diff(found, prepend=0.0) / labels.sum())


def best_f1(labels: ArrayLike, scores: ArrayLike) -> float:
    """The F1 of the threshold that gives the best one, step by step, not point-adjusted.

    Raises:
        ValueError: As `vus_pr`.

    Example:
        >>> best_f1([0, 1, 0, 1], [0.1, 0.9, 0.8, 0.7])
        0.8
    """
    labels, scores = _checked(labels, scores)
    found, marked = _counts(labels, scores)
    return float((2 * found / (marked + labels.sum())).max())


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[Array, Array]:
    labels, scores = np.asarray(labels, dtype=float), np.asarray(scores, dtype=float)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(
            f"labels and scores must be (T,) both, got {labels.shape} and {scores.shape}"
        )
    if not np.isin(labels, (0.0, 1.0)).all() or not labels.any():
        raise ValueError("labels must be 0 or 1, with at least one 1")
    if not np.isfinite(scores).all():
        raise ValueError(f"{(~np.isfinite(scores)).sum()} of the scores are not finite")
    return labels, scores


def _ranking(scores: Array) -> tuple[Indices, Indices]:
    """The steps from the highest score, and the last place of each group of equal scores.

    The scores of a group are above a threshold together: these places are the thresholds.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    return order, np.flatnonzero(np.append(ordered[1:] < ordered[:-1], True))


def _counts(labels: Array, scores: Array) -> tuple[Array, Array]:
    """Labelled steps among the marked, and marked steps, at each threshold from the highest."""
    order, last = _ranking(scores)
    return np.cumsum(labels[order])[last], (last + 1).astype(np.float64)


def _ranges(labels: Array) -> tuple[Indices, Indices]:
    """First and last step of each anomaly."""
    change = np.diff(labels, prepend=0.0, append=0.0)
    return np.flatnonzero(change > 0), np.flatnonzero(change < 0) - 1


def _buffers(labels: Array, starts: Indices, ends: Indices, length: int) -> Array:
    """The labels of the steps around the anomalies, 0 inside them."""
    distance = np.arange(1, length // 2 + 1)
    slope = np.sqrt(1 - distance / length) if length else np.empty(0)
    steps = np.concatenate(
        [(ends[:, None] + distance).ravel(), (starts[:, None] - distance).ravel()]
    )
    weights = np.tile(slope, 2 * len(starts))
    there = (steps >= 0) & (steps < len(labels))
    buffers = np.bincount(steps[there], weights[there], minlength=len(labels))
    return np.minimum(buffers, 1.0) * (labels == 0)


def _share_hit(
    rank: Indices,
    starts: Indices,
    ends: Indices,
    half: int,
    thresholds: Indices,
) -> Array:
    """The share of the anomalies, buffers included, with a marked step, at each threshold."""
    apart = ends[:-1] + half < starts[1:] - half
    first = np.maximum(starts[np.append(True, apart)] - half, 0)
    final = np.minimum(ends[np.append(apart, True)] + half + 1, len(rank))
    hit_at = np.sort([rank[a:b].min() for a, b in zip(first, final, strict=True)])
    return np.searchsorted(hit_at, thresholds, side="right") / len(hit_at)
