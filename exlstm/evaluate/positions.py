"""Loss by position in the document: what a model gains from what it has read so far."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exlstm.evaluate.perplexity import Scores, perplexity


@dataclass(frozen=True)
class PositionBucket:
    """The tokens from position `first` to `last` of every document that is so long.

    Attributes:
        first: Of the positions, counted from 1.
        last: Of the positions, included.
        loss: Mean negative log-likelihood a token, in nats.
        perplexity: `exp(loss)`.
        num_tokens: Tokens predicted there.
        num_documents: Documents that reach `first`.
    """

    first: int
    last: int
    loss: float
    perplexity: float
    num_tokens: int
    num_documents: int


def bucket_starts(longest: int, width: int | None = None) -> np.ndarray:
    """Return the first position of each bucket: 1, 2, 4, 8, ..., or every `width`.

    Args:
        longest: Positions there are.
        width: Of a bucket; `None` doubles it from one to the next.

    Raises:
        ValueError: `width` is below 1.

    Example:
        >>> bucket_starts(10).tolist(), bucket_starts(10, width=4).tolist()
        ([1, 2, 4, 8], [1, 5, 9])
    """
    if width is None:
        return 2 ** np.arange(max(longest, 1).bit_length(), dtype=np.int64)
    if width < 1:
        raise ValueError(f"position_width: {width} is not possible, it must be at least 1")
    return np.arange(1, max(longest, 1) + 1, width, dtype=np.int64)


class PositionTally:
    """Sums up losses by position.

    Args:
        longest: Positions there are.
        width: Of a bucket, see `bucket_starts`.

    Example:
        >>> tally = PositionTally(longest=3)
        >>> tally.add(Scores(np.zeros(3, int), np.array([1, 2, 3]), np.array([3.0, 2.0, 1.0])))
        >>> [(bucket.first, bucket.last, bucket.loss) for bucket in tally.buckets()]
        [(1, 1, 3.0), (2, 3, 1.5)]
    """

    def __init__(self, longest: int, width: int | None = None) -> None:
        self._starts = bucket_starts(longest, width)
        self._last = np.append(self._starts[1:] - 1, max(longest, 1))
        self._loss = np.zeros(len(self._starts))
        self._tokens = np.zeros(len(self._starts), np.int64)
        self._documents = np.zeros(len(self._starts), np.int64)

    def add(self, scores: Scores) -> None:
        """Add the losses of some tokens."""
        size = len(self._starts)
        bucket = np.searchsorted(self._starts, scores.position, side="right") - 1
        self._loss += np.bincount(bucket, scores.loss, minlength=size)
        self._tokens += np.bincount(bucket, minlength=size)
        # A document that reaches a bucket has one token at its first position.
        first = bucket[scores.position == self._starts[bucket]]
        self._documents += np.bincount(first, minlength=size)

    def buckets(self) -> tuple[PositionBucket, ...]:
        """Return the mean of each bucket that has tokens."""
        rows = zip(
            self._starts.tolist(),
            self._last.tolist(),
            self._loss.tolist(),
            self._tokens.tolist(),
            self._documents.tolist(),
            strict=True,
        )
        return tuple(
            PositionBucket(first, last, total / tokens, perplexity(total / tokens), tokens, number)
            for first, last, total, tokens, number in rows
            if tokens
        )
