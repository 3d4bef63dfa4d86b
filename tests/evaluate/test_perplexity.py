import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from exlstm.evaluate import evaluate_documents
from exlstm.evaluate.perplexity import PIECE_LENGTH
from exlstm.models import XLSTMConfig, XLSTMLanguageModel


@pytest.fixture
def model() -> XLSTMLanguageModel:
    torch.manual_seed(0)
    model = XLSTMLanguageModel(XLSTMConfig(vocab_size=13, d_model=16, pattern="ms", num_heads=2))
    return model.eval()


def documents() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(13, size=n, dtype=np.uint16) for n in (40, 7, 1, PIECE_LENGTH + 90, 2)]


def losses(model: XLSTMLanguageModel, document: np.ndarray) -> list[float]:
    tokens = torch.from_numpy(document.astype(np.int64))
    if len(tokens) < 2:
        return []
    logits, _ = model(tokens[None, :-1])
    return F.cross_entropy(logits[0], tokens[1:], reduction="none").tolist()


def test_it_is_the_mean_over_full_passes_of_each_document(model: XLSTMLanguageModel) -> None:
    expected = [loss for document in documents() for loss in losses(model, document)]
    result = evaluate_documents(model, documents(), num_bytes=1000)
    assert result.num_tokens == len(expected)
    assert result.num_documents == 4
    assert result.loss == pytest.approx(np.mean(expected), rel=1e-6)
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert result.bits_per_byte == pytest.approx(sum(expected) / math.log(2) / 1000, rel=1e-6)


def test_the_batch_size_does_not_matter(model: XLSTMLanguageModel) -> None:
    one, four = (evaluate_documents(model, documents(), 9, batch_size=b) for b in (1, 4))
    assert one.loss == pytest.approx(four.loss, rel=1e-6)


def test_context_forgets_every_so_many_tokens(model: XLSTMLanguageModel) -> None:
    document = documents()[0]
    pieces = [document[start : start + 11] for start in range(0, len(document) - 1, 10)]
    expected = [loss for piece in pieces for loss in losses(model, piece)]
    result = evaluate_documents(model, [document], 9, context=10)
    assert result.num_tokens == len(expected)
    assert result.loss == pytest.approx(np.mean(expected), rel=1e-6)


def test_progress_counts_every_token(model: XLSTMLanguageModel) -> None:
    seen: list[int] = []
    result = evaluate_documents(model, documents(), 9, progress=seen.append)
    assert sum(seen) == result.num_tokens


def test_nothing_to_evaluate_is_said(model: XLSTMLanguageModel) -> None:
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate_documents(model, [np.array([1])], num_bytes=1)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        evaluate_documents(model, documents(), num_bytes=1, batch_size=0)
