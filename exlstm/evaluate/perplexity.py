"""Loss, perplexity and bits per byte of a language model on documents, each read from its start."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from exlstm.models import XLSTMLanguageModel
from exlstm.shapes import Bool, Int

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
    if batch_size < 1 or (context is not None and context < 1):
        raise ValueError(f"batch_size and context must be at least 1, got {batch_size}, {context}")
    # Documents of like length side by side, so that little of a batch is padding.
    ordered = sorted((d for d in documents if len(d) > 1), key=len, reverse=True)
    if not ordered or num_bytes < 1:
        raise ValueError("nothing to evaluate: every document is empty")
    total, count = 0.0, 0
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        tokens, mask = _pad(batch, model.embedding.weight.device)
        state = None
        for first in range(0, tokens.shape[1] - 1, PIECE_LENGTH):
            piece = slice(first, min(first + PIECE_LENGTH, tokens.shape[1] - 1))
            scored = mask[:, piece.start + 1 : piece.stop + 1]
            reset = None
            if context is not None:
                position = torch.arange(piece.start, piece.stop, device=tokens.device)
                reset = (position % context == 0).expand(len(batch), -1)
            logits, state = model(tokens[:, piece], state, mask=mask[:, piece], reset=reset)
            targets = tokens[:, piece.start + 1 : piece.stop + 1]
            losses = F.cross_entropy(logits[scored], targets[scored], reduction="sum")
            total += losses.double().item()
            count += int(scored.sum())
            progress(int(scored.sum()))
    loss = total / count
    return Evaluation(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        bits_per_byte=total / math.log(2) / num_bytes,
        num_tokens=count,
        num_bytes=num_bytes,
        num_documents=len(ordered),
    )


def _pad(
    documents: Sequence[np.ndarray], device: torch.device
) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Documents as rows, padded on the right, and where they are real."""
    lengths = torch.tensor([len(d) for d in documents])
    tokens = torch.zeros(len(documents), int(lengths.max()), dtype=torch.int64)
    for row, document in zip(tokens, documents, strict=True):
        row[: len(document)] = torch.from_numpy(document.astype(np.int64))
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]
    return tokens.to(device), mask.to(device)
