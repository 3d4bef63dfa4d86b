from dataclasses import asdict

import numpy as np
import pytest
import torch

from exlstm.evaluate import Domain, Evaluation, compare_domains, evaluate_domains
from exlstm.evaluate.perplexity import PIECE_LENGTH, evaluate_documents
from exlstm.models import XLSTMConfig, XLSTMLanguageModel


@pytest.fixture
def model() -> XLSTMLanguageModel:
    torch.manual_seed(0)
    model = XLSTMLanguageModel(XLSTMConfig(vocab_size=13, d_model=16, pattern="ms", num_heads=2))
    return model.eval()


def domains() -> list[Domain]:
    rng = np.random.default_rng(0)
    lengths = {"news": (40, 7, 1, PIECE_LENGTH + 90), "code": (9,), "chat": (2, 30)}
    return [
        Domain(name, [rng.integers(13, size=n, dtype=np.uint16) for n in each], 2 * sum(each))
        for name, each in lengths.items()
    ]


@pytest.mark.parametrize("context", [None, 5])
def test_every_domain_is_as_if_alone(model: XLSTMLanguageModel, context: int | None) -> None:
    result = evaluate_domains(model, domains(), context=context)
    assert list(result.domains) == ["news", "code", "chat"]
    for domain in domains():
        alone = evaluate_documents(model, domain.documents, domain.num_bytes, context=context)
        assert asdict(result.domains[domain.name]) == pytest.approx(asdict(alone), rel=1e-6)


def test_the_averages_are_over_documents_and_over_domains(model: XLSTMLanguageModel) -> None:
    result = evaluate_domains(model, domains())
    documents = [document for domain in domains() for document in domain.documents]
    together = evaluate_documents(model, documents, sum(d.num_bytes for d in domains()))
    assert asdict(result.micro) == pytest.approx(asdict(together), rel=1e-6)
    for name, mean in asdict(result.macro).items():
        assert mean == np.mean([getattr(one, name) for one in result.domains.values()])
    assert result.macro.loss != pytest.approx(result.micro.loss, rel=1e-3)


def test_the_batch_size_does_not_matter(model: XLSTMLanguageModel) -> None:
    one, four = (evaluate_domains(model, domains(), batch_size=size) for size in (1, 4))
    for name in one.domains:
        assert asdict(one.domains[name]) == pytest.approx(asdict(four.domains[name]), rel=1e-6)
    for bucket, same in zip(one.positions, four.positions, strict=True):
        assert asdict(bucket) == pytest.approx(asdict(same), rel=1e-6)


def test_a_document_is_read_piece_by_piece(model: XLSTMLanguageModel) -> None:
    asked: list[slice] = []

    class Recorded:
        def __len__(self) -> int:
            return 2 * PIECE_LENGTH + 5

        def __getitem__(self, where: slice) -> np.ndarray:
            asked.append(where)
            return np.arange(*where.indices(len(self))) % 13

    evaluate_domains(model, [Domain("long", [Recorded()], 9)])
    assert len(asked) == 3
    assert all(where.stop - where.start <= PIECE_LENGTH + 1 for where in asked)


def test_a_large_vocabulary_takes_its_logits_in_parts(
    model: XLSTMLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate_domains(model, domains())
    monkeypatch.setattr("exlstm.evaluate.perplexity._LOGITS", 13 * 50)
    sizes = []
    logits = model.logits
    monkeypatch.setattr(model, "logits", lambda x: (sizes.append(len(x)), logits(x))[1])
    parts = evaluate_domains(model, domains())
    assert max(sizes) == 50
    assert asdict(parts.micro) == pytest.approx(asdict(whole.micro), rel=1e-6)


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        ([], "domains: there are none"),
        ([Domain("news", [np.array([1])], 9)], "domains: news is empty"),
        ([Domain("a", [np.array([1, 2])], 1)] * 2, "domains: a name is twice in"),
    ],
)
def test_what_is_no_domain_is_named(
    model: XLSTMLanguageModel, domains: list[Domain], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_domains(model, domains)


def results(*losses: float) -> dict[str, Evaluation]:
    return {
        name: Evaluation.of(4 * loss, 4, 8, 1) for name, loss in zip("abcd", losses, strict=True)
    }


@pytest.mark.parametrize("metric", ["perplexity", "bits_per_byte"])
def test_a_comparison_counts_domains_and_says_by_how_much(metric: str) -> None:
    comparison = compare_domains(results(1, 2, 3, 4), results(2, 3, 3, 2), metric)
    assert (comparison.won, comparison.lost, comparison.share_won) == (2, 1, 0.5)
    ratios = {"perplexity": np.exp([-1, -1, 0, 2]), "bits_per_byte": [1 / 2, 2 / 3, 1, 2]}[metric]
    assert comparison.ratio == pytest.approx(np.exp(np.mean(np.log(ratios))))
    assert comparison.best == ("a", pytest.approx(min(ratios)))
    assert comparison.worst == ("d", pytest.approx(max(ratios)))


def test_perplexities_of_different_tokens_are_not_compared() -> None:
    other = {**results(2, 3, 3, 2), "b": Evaluation.of(9, 3, 8, 1)}
    with pytest.raises(ValueError, match="b has 4 tokens for one model and 3 for the other"):
        compare_domains(results(1, 2, 3, 4), other)
    assert compare_domains(results(1, 2, 3, 4), other, "bits_per_byte").won == 2
    with pytest.raises(ValueError, match="domains: d is of one model only"):
        compare_domains(results(1, 2, 3, 4), {name: other[name] for name in "abc"})
    with pytest.raises(ValueError, match="metric must be"):
        compare_domains(results(1, 2, 3, 4), other, "loss")
