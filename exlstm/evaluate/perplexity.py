"""Loss, perplexity and bits per byte of a language model on documents, each read from its start."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

from exlstm.models import XLSTMLanguageModel
from exlstm.shapes import Float

PIECE_LENGTH = 512


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


@torch.inference_mode()
def evaluate_documents(
    model: XLSTMLanguageModel,
    documents: Sequence[np.ndarray],
    num_bytes: int,
    *,
    context: int | None = None,
    batch_size: int = 16,
    progress: Callable[[int], object] = lambda tokens: None,
) -> Evaluation:
    """Read every document from an empty memory to its end and score each token after the first.

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
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if context is not None and context < 1:
        raise ValueError(f"context must be at least 1 or None, got {context}")
    # Documents of like length side by side, so that little of a batch is padding.
    ordered = sorted((d for d in documents if len(d) > 1), key=len, reverse=True)
    if not ordered or num_bytes < 1:
        raise ValueError("nothing to evaluate: every document is empty")
    total, count = 0.0, 0
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        for losses in _batch_losses(model, batch, context):
            total += losses.double().sum().item()
            count += len(losses)
            progress(len(losses))
    loss = total / count
    return Evaluation(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        bits_per_byte=total / math.log(2) / num_bytes,
        num_tokens=count,
        num_bytes=num_bytes,
        num_documents=len(ordered),
    )


def _batch_losses(
    model: XLSTMLanguageModel, documents: Sequence[np.ndarray], context: int | None
) -> Iterator[Float[Tensor, " X"]]:
    """The loss of every token after a document's first, piece by piece; the longest comes first."""
    device = model.embedding.weight.device
    lengths = np.array([len(document) for document in documents])
    state = None
    for first in range(0, lengths[0] - 1, PIECE_LENGTH):
        # Rows whose document has ended are dropped. What pads a row that ends within the piece
        # needs no mask: it comes after everything that is scored.
        active = int((lengths > first + 1).sum())
        if state is not None:
            state = tree_map(lambda part, active=active: part[:active], state)
        last = min(first + PIECE_LENGTH, lengths[0] - 1)
        rows = np.zeros((active, last - first + 1), dtype=np.int64)
        for row, document in zip(rows, documents, strict=False):
            piece = document[first : last + 1]
            row[: len(piece)] = piece
        tokens = torch.from_numpy(rows).to(device)
        reset = None
        if context is not None:
            position = torch.arange(first, last, device=device)
            reset = (position % context == 0).expand(active, -1)
        logits, state = model(tokens[:, :-1], state, reset=reset)
        ends = torch.from_numpy(lengths[:active, None]).to(device)
        scored = torch.arange(first + 1, last + 1, device=device) < ends
        yield F.cross_entropy(logits[scored], tokens[:, 1:][scored], reduction="none")
