"""Perplexity by domain, as PALOMA measures it: each domain for itself, and the averages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from exlstm.evaluate.perplexity import Evaluation, TokenSequence, score_tokens
from exlstm.evaluate.positions import PositionBucket, PositionTally
from exlstm.models import XLSTMLanguageModel


@dataclass(frozen=True)
class Domain:
    """Documents of one kind.

    Attributes:
        name: Of the domain.
        documents: Token ids of each, starting with the token that opens a document.
        num_bytes: Bytes of text of all of them.
    """

    name: str
    documents: Sequence[TokenSequence]
    num_bytes: int


@dataclass(frozen=True)
class MacroAverage:
    """Means in which every domain counts alike, however much text it has."""

    loss: float
    perplexity: float
    """The mean of the domains' perplexities; `exp(loss)` is their geometric mean."""
    bits_per_byte: float


@dataclass(frozen=True)
class DomainEvaluation:
    """What a model makes of several domains.

    Attributes:
        micro: Over all documents, as if they were one domain.
        macro: The mean over the domains.
        domains: Name -> evaluation.
        positions: Loss by position in the document, over all domains.
    """

    micro: Evaluation
    macro: MacroAverage
    domains: dict[str, Evaluation]
    positions: tuple[PositionBucket, ...]


def evaluate_domains(
    model: XLSTMLanguageModel,
    domains: Sequence[Domain],
    *,
    context: int | None = None,
    batch_size: int = 16,
    position_width: int | None = None,
    progress: Callable[[int], object] = lambda tokens: None,
) -> DomainEvaluation:
    r"""Evaluate a model on several domains, in one pass over all their documents.

    For a domain of N tokens, PALOMA's perplexity is
    $\exp(-\frac1N \sum_{d} \sum_t \log p(x_{d,t} \mid x_{d,<t}))$, the sum over its documents d.

    Args:
        model: The model, in evaluation mode.
        domains: What to read.
        context: Empty the memory every so many tokens; `None` never does.
        batch_size: Documents read side by side; it does not change the result.
        position_width: Tokens of a bucket of positions; `None` doubles it from one to the next.
        progress: Called with the number of tokens just scored.

    Raises:
        ValueError: There are no domains, one of them is empty, two have one name, or an argument
            is below 1.

    Example:
        >>> from exlstm.models import XLSTMConfig
        >>> model = XLSTMLanguageModel(XLSTMConfig(vocab_size=257, d_model=32, pattern="ms"))
        >>> a = Domain("a", [np.array([256, 72, 105])], num_bytes=2)
        >>> b = Domain("b", [np.array([256, 33]), np.array([256, 46])], num_bytes=2)
        >>> result = evaluate_domains(model.eval(), [a, b])
        >>> result.micro.num_documents, list(result.domains)
        (3, ['a', 'b'])
        >>> losses = [domain.loss for domain in result.domains.values()]
        >>> result.macro.loss == sum(losses) / 2
        True
    """
    if not domains:
        raise ValueError("domains: there are none")
    for domain in domains:
        if domain.num_bytes < 1 or not any(len(document) > 1 for document in domain.documents):
            raise ValueError(f"domains: {domain.name} is empty")
    if len({domain.name for domain in domains}) < len(domains):
        raise ValueError(f"domains: a name is twice in {[domain.name for domain in domains]}")
    documents = [document for domain in domains for document in domain.documents]
    owner = np.repeat(np.arange(len(domains)), [len(domain.documents) for domain in domains])
    positions = PositionTally(max(map(len, documents)) - 1, position_width)
    totals = np.zeros(len(domains))
    tokens = np.zeros(len(domains), np.int64)
    for scores in score_tokens(model, documents, context=context, batch_size=batch_size):
        of = owner[scores.document]
        totals += np.bincount(of, scores.loss, minlength=len(domains))
        tokens += np.bincount(of, minlength=len(domains))
        positions.add(scores)
        progress(len(of))
    sizes = [
        (domain.num_bytes, sum(len(document) > 1 for document in domain.documents))
        for domain in domains
    ]
    results = {
        domain.name: Evaluation.of(total, count, *size)
        for domain, total, count, size in zip(
            domains, totals.tolist(), tokens.tolist(), sizes, strict=True
        )
    }
    return DomainEvaluation(
        micro=Evaluation.of(
            float(totals.sum()), int(tokens.sum()), *map(sum, zip(*sizes, strict=True))
        ),
        macro=MacroAverage(
            *(
                fmean(getattr(result, name) for result in results.values())
                for name in ("loss", "perplexity", "bits_per_byte")
            )
        ),
        domains=results,
        positions=positions.buckets(),
    )


@dataclass(frozen=True)
class Comparison:
    """Two models on the same domains.

    Attributes:
        metric: `"perplexity"` or `"bits_per_byte"`, of which less is better.
        won: Domains on which the first model is better.
        lost: Domains on which the second is.
        share_won: `won` over all domains.
        ratio: Geometric mean over the domains of the first model's value over the second's.
        best: The domain with the smallest ratio, and that.
        worst: The domain with the largest ratio, and that.
    """

    metric: str
    won: int
    lost: int
    share_won: float
    ratio: float
    best: tuple[str, float]
    worst: tuple[str, float]


def compare_domains(
    first: Mapping[str, Evaluation], second: Mapping[str, Evaluation], metric: str = "perplexity"
) -> Comparison:
    """Compare two models domain by domain.

    Args:
        first: Name of a domain -> what the first model makes of it.
        second: Likewise.
        metric: What is compared: `"perplexity"`, or `"bits_per_byte"`, which is comparable between
            tokenizers.

    Raises:
        ValueError: There is no such metric, the domains differ, or perplexities are asked for of
            models with different tokenizers: a domain has more tokens for one than for the other.

    Example:
        >>> a = {"news": Evaluation.of(8.0, 4, 4, 1), "code": Evaluation.of(2.0, 4, 4, 1)}
        >>> b = {"news": Evaluation.of(6.0, 4, 4, 1), "code": Evaluation.of(4.0, 4, 4, 1)}
        >>> comparison = compare_domains(a, b)
        >>> comparison.won, comparison.share_won, round(comparison.ratio, 3), comparison.best[0]
        (1, 0.5, 1.0, 'code')
    """
    if metric not in ("perplexity", "bits_per_byte"):
        raise ValueError(f"metric must be 'perplexity' or 'bits_per_byte', got {metric!r}")
    if different := sorted(first.keys() ^ second.keys()):
        raise ValueError(f"domains: {different[0]} is of one model only")
    for name, result in first.items():
        if metric == "perplexity" and result.num_tokens != second[name].num_tokens:
            raise ValueError(
                f"perplexity: {name} has {result.num_tokens:,} tokens for one model and "
                f"{second[name].num_tokens:,} for the other; compare bits_per_byte"
            )
    ratios = {
        name: getattr(result, metric) / getattr(second[name], metric)
        for name, result in first.items()
    }
    order = sorted(ratios, key=ratios.__getitem__)
    won = sum(ratio < 1 for ratio in ratios.values())
    return Comparison(
        metric=metric,
        won=won,
        lost=sum(ratio > 1 for ratio in ratios.values()),
        share_won=won / len(ratios),
        ratio=math.exp(fmean(map(math.log, ratios.values()))),
        best=(order[0], ratios[order[0]]),
        worst=(order[-1], ratios[order[-1]]),
    )
