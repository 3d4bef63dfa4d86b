"""The bytes of a text as a task, so that language models are compared as all other models are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from exlstm.data.text import Document, read_documents, split_documents
from exlstm.tasks.task import Batch, Task


@dataclass(frozen=True)
class Text(Task):
    """Which byte comes next, in a text?

    A row is a window of T bytes somewhere in one document, and byte b is token 1 + b. After every
    step the answer is the byte behind it. Rows for the test are from documents that no row for
    training is from: about 5 % of them, always the same (`exlstm.data.text.split_documents`). A
    share of the text can be left out of both, to be read once at the very end.

    Attributes:
        data: A file, a folder or a glob; empty for the source of Python's standard library.
        held_out: Draw from the documents for the test.
        left_out: Share of the text that no row is from: of one document its end, of several whole
            ones, always the same.

    Raises:
        ValueError: `left_out` is no share. When rows are drawn: there is no such text, or no
            document with a byte more than the longest row.
    """

    name = "text"
    train_lengths = test_lengths = (256, 256)
    vocab_size = 257
    chance = 1 / 256

    data: str = ""
    held_out: bool = False
    left_out: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.left_out < 1:
            raise ValueError(f"left_out must be a share from 0 to below 1, got {self.left_out}")

    def draw(self, rng: np.random.Generator, lengths: NDArray[np.int64]) -> Batch:
        parts = _read(self.data, self.left_out)
        return _windows(parts.validation if self.held_out else parts.train, rng, lengths)

    def segments(self, length: int, at_most: int) -> NDArray[np.int64]:
        """Pieces of what is left out, `length` tokens and the one behind them each.

        They lie end to end in each document; of more than `at_most`, evenly spread ones are taken.

        Returns:
            (number of pieces, length + 1).

        Raises:
            ValueError: No document that is left out is that long.
        """
        corpus = _read(self.data, self.left_out).left_out
        first = [
            place
            for begin, end in pairwise(corpus.borders.tolist())
            for place in range(begin, end - length, length)
        ]
        if not first:
            raise ValueError(f"no document that is left out has {length + 1} bytes")
        chosen = np.linspace(0, len(first) - 1, min(at_most, len(first))).round().astype(int)
        places = np.array(first)[chosen]
        return corpus.tokens[places[:, None] + np.arange(length + 1)].astype(np.int64) + 1

    def for_test(self) -> Task:
        return replace(self, held_out=True)


class _Corpus(NamedTuple):
    """Bytes of a part of a text, document behind document, and where each begins; the end too."""

    tokens: NDArray[np.uint8]
    borders: NDArray[np.int64]


class _Parts(NamedTuple):
    train: _Corpus
    validation: _Corpus
    left_out: _Corpus


@lru_cache(maxsize=2)
def _read(data: str, left_out: float) -> _Parts:
    documents, apart = _leave_out(read_documents(data or None), left_out)
    split = split_documents(documents)
    return _Parts(_joined(split.train), _joined(split.validation), _joined(apart))


def _leave_out(documents: list[Document], share: float) -> tuple[list[Document], list[Document]]:
    """What rows are from, and what is left out."""
    if not share:
        return documents, []
    if len(documents) == 1:
        name, text = documents[0]
        cut = int(len(text) * (1 - share))
        return [Document(name, text[:cut])], [Document(name, text[cut:])]
    kept = [document for document in documents if _place(document.name) >= share]
    if not kept:
        raise ValueError(f"left_out: {share} of {len(documents)} documents are all of them")
    return kept, [document for document in documents if _place(document.name) < share]


def _place(name: str) -> float:
    """From 0 to 1, by a hash that is not that of `split_documents`."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8, person=b"left")
    return int.from_bytes(digest.digest(), "little") / 2**64


def _joined(documents: list[Document]) -> _Corpus:
    texts = [document.text.encode() for document in documents]
    borders = np.cumsum([0, *map(len, texts)])
    return _Corpus(np.frombuffer(b"".join(texts), np.uint8), borders)


def _windows(corpus: _Corpus, rng: np.random.Generator, lengths: NDArray[np.int64]) -> Batch:
    """Every window of T + 1 bytes inside a document is as likely as any other."""
    T = int(lengths.max())
    places = np.maximum(np.diff(corpus.borders) - T, 0)  # of such windows in each document
    if not places.any():
        raise ValueError(f"no document has {T + 1} bytes; take shorter rows, or another text")
    ends = np.cumsum(places)
    drawn = rng.integers(0, ends[-1], len(lengths))
    document = np.searchsorted(ends, drawn, side="right")
    first = corpus.borders[document] + drawn - (ends - places)[document]

    window = corpus.tokens[first[:, None] + np.arange(T + 1)].astype(np.int64) + 1
    inside = np.arange(T) < lengths[:, None]
    inputs, targets = np.where(inside, window[:, :-1], 0), np.where(inside, window[:, 1:], 0)
    return Batch(inputs, targets, inside, lengths)
