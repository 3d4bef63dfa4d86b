"""Texts a model writes, beside what people wrote: how varied, how repetitive, how likely to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from exlstm.evaluate.domains import Domain
from exlstm.evaluate.perplexity import score_tokens
from exlstm.models import XLSTMLanguageModel, generate

if TYPE_CHECKING:
    from exlstm.data import Tokenizer

PROMPT = 256
"""Characters of a document that are given, or half of a shorter one."""
CONTINUATION = 512
"""Characters that follow, at most: of the document, and of what the model writes."""
TOP_P = 0.95

_MOST_TOKENS = 4
"""For a character: its bytes."""


@dataclass(frozen=True)
class Beginning:
    """How a held-out document begins, and how it goes on."""

    domain: str
    prompt: str
    continuation: str


@dataclass(frozen=True)
class TextStatistics:
    """What there is to say of some texts.

    Attributes:
        distinct_1: Share of different ones among all words.
        distinct_2: Likewise of two words in a row.
        distinct_3: Likewise of three.
        repetition_4: Share of four words in a row that occurred in the same text before, mean over
            the texts.
        bits_per_byte: What the model needs for them after their prompts, at temperature 1.
    """

    distinct_1: float
    distinct_2: float
    distinct_3: float
    repetition_4: float
    bits_per_byte: float


@dataclass(frozen=True)
class Samples:
    """Texts of a model after the beginnings of documents.

    Attributes:
        beginnings: What was given, and how the documents go on.
        texts: What the model wrote, one for each.
        generated: Of the model's texts.
        held_out: Of how the documents go on.
    """

    beginnings: tuple[Beginning, ...]
    texts: tuple[str, ...]
    generated: TextStatistics
    held_out: TextStatistics


def pick_beginnings(
    domains: Sequence[Domain], tokenizer: Tokenizer, number: int
) -> tuple[Beginning, ...]:
    """Pick documents, evenly spread over all there are, and cut them in two.

    Raises:
        ValueError: There are not so many documents of two characters or more.

    Example:
        >>> from exlstm.data import ByteTokenizer
        >>> text = np.array([256, *b"hi there"])
        >>> pick_beginnings([Domain("a", [text, text], 16)], ByteTokenizer(), 1)
        (Beginning(domain='a', prompt='hi t', continuation='here'),)
    """
    found = [
        (domain.name, document)
        for domain in domains
        for document in domain.documents
        if len(document) > 2
    ]
    if not 1 <= number <= len(found):
        raise ValueError(
            f"samples: {number} is not possible, there are {len(found)} documents to begin from"
        )
    picked = [found[(2 * n + 1) * len(found) // (2 * number)] for n in range(number)]
    beginnings = []
    for name, document in picked:
        text = tokenizer.decode(document[1 : 1 + _MOST_TOKENS * (PROMPT + CONTINUATION)])
        cut = min(PROMPT, len(text) // 2)
        beginnings.append(Beginning(name, text[:cut], text[cut : cut + CONTINUATION]))
    return tuple(beginnings)


def sample_texts(
    model: XLSTMLanguageModel,
    tokenizer: Tokenizer,
    beginnings: Sequence[Beginning],
    *,
    seed: int = 0,
    progress: Callable[[int], object] = lambda texts: None,
) -> Samples:
    """Let a model go on where documents were cut, about as far as they do, and look at the texts.

    Tokens are drawn at temperature 1 from those that together have a probability of 0.95 (nucleus
    sampling).

    Args:
        model: The model, in evaluation mode.
        tokenizer: Of the model.
        beginnings: See `pick_beginnings`.
        seed: Of the drawing.
        progress: Called with 1 after each text.

    Example:
        >>> from exlstm.data import ByteTokenizer
        >>> from exlstm.models import XLSTMConfig
        >>> model = XLSTMLanguageModel(XLSTMConfig(vocab_size=257, d_model=32, pattern="ms"))
        >>> samples = sample_texts(model.eval(), ByteTokenizer(), [Beginning("a", "one ", "two")])
        >>> len(samples.texts), samples.held_out.distinct_1
        (1, 1.0)
    """
    prompts, written = [], []
    for number, beginning in enumerate(beginnings):
        prompt = np.concatenate(
            ([tokenizer.end_of_document], tokenizer.encode(beginning.prompt))
        ).astype(np.int64)
        prompts.append(prompt)
        written.append(_write(model, tokenizer, prompt, len(beginning.continuation), seed + number))
        progress(1)
    texts = [tokenizer.decode(tokens) for tokens in written]
    real = [beginning.continuation for beginning in beginnings]
    return Samples(
        beginnings=tuple(beginnings),
        texts=tuple(texts),
        generated=_statistics(model, prompts, written, texts),
        held_out=_statistics(model, prompts, [tokenizer.encode(text) for text in real], real),
    )


def distinct(texts: Sequence[str], n: int) -> float:
    """Return the share of different ones among all runs of `n` words of some texts, "distinct-n".

    Words are what stands between spaces. Of texts with no such run it is NaN.

    Example:
        >>> distinct(["the cat and the dog"], 1), distinct(["the cat and the dog"], 2)
        (0.8, 1.0)
    """
    runs = [run for text in texts for run in _runs(text, n)]
    return len(set(runs)) / len(runs) if runs else math.nan


def repetition(texts: Sequence[str], n: int = 4) -> float:
    """Return the share of runs of `n` words that repeat one before in their text, mean over texts.

    Texts with no such run do not count; if all are such, it is NaN.

    Example:
        >>> repetition(["a b c d a b c d"], 4)
        0.2
    """
    listed = [runs for text in texts if (runs := _runs(text, n))]
    shares = [(len(runs) - len(set(runs))) / len(runs) for runs in listed]
    return fmean(shares) if shares else math.nan


def _runs(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return list(zip(*(words[start:] for start in range(n)), strict=False))


def _write(
    model: XLSTMLanguageModel, tokenizer: Tokenizer, prompt: np.ndarray, length: int, seed: int
) -> list[int]:
    """The tokens of a text of `length` characters, or fewer if the model ends the document."""
    end, decoder = tokenizer.end_of_document, tokenizer.stream()
    tokens, characters = [], 0
    drawn = generate(
        model, prompt.tolist(), _MOST_TOKENS * length, top_p=TOP_P, seed=seed, stop={end}
    )
    for token in drawn:
        tokens.append(token)
        characters += len(decoder.push(token))
        if characters >= length:
            break
    return tokens


def _statistics(
    model: XLSTMLanguageModel,
    prompts: Sequence[np.ndarray],
    continuations: Sequence[Sequence[int] | np.ndarray],
    texts: Sequence[str],
) -> TextStatistics:
    whole = [
        np.concatenate((prompt, np.asarray(tokens, np.int64)))
        for prompt, tokens in zip(prompts, continuations, strict=True)
    ]
    lengths = np.array([len(prompt) for prompt in prompts])
    total = 0.0
    for scores in score_tokens(model, whole):
        total += float(scores.loss[scores.position >= lengths[scores.document]].sum())
    num_bytes = sum(len(text.encode()) for text in texts)
    return TextStatistics(
        *(distinct(texts, n) for n in (1, 2, 3)),
        repetition_4=repetition(texts),
        bits_per_byte=total / math.log(2) / num_bytes if num_bytes else math.nan,
    )
