import numpy as np
import pytest
import torch
import torch.nn.functional as F

from exlstm.evaluate import Domain, evaluate_domains
from exlstm.evaluate.perplexity import PIECE_LENGTH
from exlstm.models import XLSTMConfig, XLSTMLanguageModel

LENGTHS = (40, 7, 1, 2 * PIECE_LENGTH + 90, PIECE_LENGTH + 3)


@pytest.fixture
def model() -> XLSTMLanguageModel:
    torch.manual_seed(0)
    model = XLSTMLanguageModel(XLSTMConfig(vocab_size=13, d_model=16, pattern="ms", num_heads=2))
    return model.eval()


def documents() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(13, size=length) for length in LENGTHS]


def losses(model: XLSTMLanguageModel, document: np.ndarray) -> np.ndarray:
    """Of every token after the first, in one pass over the whole document."""
    tokens = torch.from_numpy(document)
    with torch.inference_mode():
        logits, _ = model(tokens[None, :-1])
        return F.cross_entropy(logits[0], tokens[1:], reduction="none").double().numpy()


@pytest.mark.parametrize("width", [None, 100])
def test_every_position_is_that_of_one_full_pass(
    model: XLSTMLanguageModel, width: int | None
) -> None:
    domain = Domain("all", documents(), 9)
    buckets = evaluate_domains(model, [domain], position_width=width).positions
    full = [losses(model, document) for document in documents() if len(document) > 1]
    starts = [1, 101, 201] if width else [1, 2, 4]
    assert [bucket.first for bucket in buckets][:3] == starts
    assert buckets[-1].last == max(LENGTHS) - 1
    assert sum(bucket.num_tokens for bucket in buckets) == sum(map(len, full))
    for bucket in buckets:
        own = np.concatenate([loss[bucket.first - 1 : bucket.last] for loss in full])
        assert bucket.num_tokens == len(own)
        assert bucket.num_documents == sum(len(loss) >= bucket.first for loss in full)
        assert bucket.loss == pytest.approx(own.mean(), rel=1e-5)


def test_an_emptied_memory_differs_only_beyond_its_reach(model: XLSTMLanguageModel) -> None:
    domain = Domain("all", documents(), 9)
    whole, short = (
        evaluate_domains(model, [domain], context=context, position_width=32).positions
        for context in (None, 32)
    )
    assert short[0].loss == pytest.approx(whole[0].loss, rel=1e-6)
    differences = [abs(a.loss - b.loss) for a, b in zip(whole[1:], short[1:], strict=True)]
    assert min(differences) > 1e-5
    assert [bucket.num_tokens for bucket in whole] == [bucket.num_tokens for bucket in short]


def test_a_width_below_one_is_refused(model: XLSTMLanguageModel) -> None:
    with pytest.raises(ValueError, match="position_width: 0 is not possible"):
        evaluate_domains(model, [Domain("all", documents(), 9)], position_width=0)
