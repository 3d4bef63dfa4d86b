"""Loss, perplexity and bits per byte of a language model on documents, each read from its start."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_map

from exlstm.models import XLSTMLanguageModel

PIECE_LENGTH = 512

_LOGITS = 1 << 24
"""Logits in memory at once: of a large vocabulary, those of a whole piece would be gigabytes."""


class TokenSequence(Protocol):
    """A document's tokens: an array, or something that reads slices of them from a file."""

    def __len__(self) -> int:
        """Number of tokens."""
        ...

    def __getitem__(self, where: slice, /) -> np.ndarray:
        """Return some of them."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a set of documents.

    Attributes:
        loss: Mean negative log-likelihood a token, in nats.
        perplexity: `exp(loss)`.
        bits_per_byte: Total negative log-likelihood in bits, over the documents' bytes as UTF-8:
            comparable between tokenizers.
        num_tokens: Tokens predicted.
        num_bytes: Bytes they stand for.
        num_documents: Documents read.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    num_tokens: int
    num_bytes: int
    num_documents: int

    @classmethod
    def of(cls, total: float, num_tokens: int, num_bytes: int, num_documents: int) -> Evaluation:
        """The evaluation of documents whose tokens have a negative log-likelihood of `total`."""
        loss = total / num_tokens
        return cls(
            loss=loss,
            perplexity=perplexity(loss),
            bits_per_byte=total / math.log(2) / num_bytes,
            num_tokens=num_tokens,
            num_bytes=num_bytes,
            num_documents=num_documents,
        )


class Scores(NamedTuple):
    """The losses of some tokens, an item each."""

    document: np.ndarray
    """Which document the token is of, by its place in the sequence given."""
    position: np.ndarray
    """Which token of the document's text it is, from 1."""
    loss: np.ndarray
    """Its negative log-likelihood in nats, float64."""


def perplexity(loss: float) -> float:
    """Return `exp(loss)`; of a loss that is too large for that, something very large.

    Example:
        >>> perplexity(0.0), perplexity(1e6) > 1e300
        (1.0, True)
    """
    return math.exp(min(loss, 700.0))


@torch.inference_mode()
def score_tokens(
    model: XLSTMLanguageModel,
    documents: Sequence[TokenSequence],
    *,
    context: int | None = None,
    batch_size: int = 16,
) -> Iterator[Scores]:
    """Read every document from an empty memory to its end and score each token after the first.

    A document of any length is read in pieces, the memory carried from one to the next.

    Args:
        model: The model, in evaluation mode.
        documents: Token ids of each, starting with the token that opens a document.
        context: Empty the memory every so many tokens; `None` never does.
        batch_size: Documents read side by side; rows do not see each other.

    Yields:
        Each token once, in no order to rely on.

    Raises:
        ValueError: An argument is below 1.

    Example:
        >>> from exlstm.models import XLSTMConfig
        >>> model = XLSTMLanguageModel(XLSTMConfig(vocab_size=257, d_model=32, pattern="ms"))
        >>> (scores,) = score_tokens(model.eval(), [np.array([256, 72, 105])])
        >>> scores.document.tolist(), scores.position.tolist()
        ([0, 0], [1, 2])
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if context is not None and context < 1:
        raise ValueError(f"context must be at least 1 or None, got {context}")
    # Documents of like length side by side, so that little of a batch is padding.
    lengths = np.array([len(document) for document in documents], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 1]
    for start in range(0, len(order), batch_size):
        yield from _score_batch(model, documents, order[start : start + batch_size], context)


def evaluate_documents(
    model: XLSTMLanguageModel,
    documents: Sequence[TokenSequence],
    num_bytes: int,
    *,
    context: int | None = None,
    batch_size: int = 16,
    progress: Callable[[int], object] = lambda tokens: None,
) -> Evaluation:
    """Evaluate a model on documents, each read from an empty memory to its end.

    The result does not depend on `batch_size`: rows do not see each other.

    Args:
        model: The model, in evaluation mode.
        documents: Token ids of each, starting with the token that opens a document.
        num_bytes: Bytes of text the scored tokens stand for.
        context: Empty the memory every so many tokens: what the model would reach with no more
            context than that. `None` never does.
        batch_size: Documents read side by side.
        progress: Called with the number of tokens just scored.

    Raises:
        ValueError: There is nothing to score, or an argument is below 1.

    Example:
        >>> from exlstm.models import XLSTMConfig
        >>> model = XLSTMLanguageModel(XLSTMConfig(vocab_size=257, d_model=32, pattern="ms"))
        >>> result = evaluate_documents(model.eval(), [np.array([256, 72, 105])], num_bytes=2)
        >>> result.num_tokens, 0 < result.bits_per_byte < 20
        (2, True)
    """
    num_documents = sum(len(document) > 1 for document in documents)
    if num_documents == 0 or num_bytes < 1:
        raise ValueError("nothing to evaluate: every document is empty")
    total, count = 0.0, 0
    for scores in score_tokens(model, documents, context=context, batch_size=batch_size):
        total += float(scores.loss.sum())
        count += len(scores.loss)
        progress(len(scores.loss))
    return Evaluation.of(total, count, num_bytes, num_documents)


def _score_batch(
    model: XLSTMLanguageModel,
    documents: Sequence[TokenSequence],
    batch: np.ndarray,
    context: int | None,
) -> Iterator[Scores]:
    """The losses of documents side by side, piece by piece; the longest comes first."""
    device = model.embedding.weight.device
    lengths = np.array([len(documents[number]) for number in batch])
    state = None
    for first in range(0, lengths[0] - 1, PIECE_LENGTH):
        # Rows whose document has ended are dropped. What pads a row that ends within the piece
        # needs no mask: it comes after everything that is scored.
        active = int((lengths > first + 1).sum())
        if state is not None:
            state = tree_map(lambda part, active=active: part[:active], state)
        last = min(first + PIECE_LENGTH, lengths[0] - 1)
        rows = np.zeros((active, last - first + 1), dtype=np.int64)
        for row, number in zip(rows, batch, strict=False):
            piece = documents[number][first : last + 1]
            row[: len(piece)] = piece
        tokens = torch.from_numpy(rows).to(device)
        reset = None
        if context is not None:
            position = torch.arange(first, last, device=device)
            reset = (position % context == 0).expand(active, -1)
        features, state = model.features(model.embedding(tokens[:, :-1]), state, reset=reset)
        position = np.arange(first + 1, last + 1)
        scored = position < lengths[:active, None]
        chosen = torch.from_numpy(scored).to(device)
        parts = zip(
            features[chosen].split(max(1, _LOGITS // model.config.vocab_size)),
            tokens[:, 1:][chosen].split(max(1, _LOGITS // model.config.vocab_size)),
            strict=True,
        )
        losses = [F.cross_entropy(model.logits(x), y, reduction="none") for x, y in parts]
        yield Scores(
            document=np.broadcast_to(batch[:active, None], scored.shape)[scored],
            position=np.broadcast_to(position, scored.shape)[scored],
            loss=torch.cat(losses).double().cpu().numpy(),
        )
