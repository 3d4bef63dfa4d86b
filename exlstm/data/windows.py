"""Windows of a token file: training samples by arithmetic."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from exlstm.data.token_file import TokenFile

_ROUNDS = 6


@dataclass(frozen=True)
class Windows:
    """Training samples by arithmetic: sample g is a function of the file, `context`, `seed` and g.

    An epoch cuts the file into windows of `context` tokens (and the one to predict after them),
    begins at a phase of its own, and visits the windows in an order of its own: a keyed
    permutation, which needs no memory and no walk through what came before. So a run resumes
    at any step at once, on any number of processes.

    Raises:
        ValueError: if the file is shorter than one window.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from exlstm.data import ByteTokenizer, Document, write_token_files
        >>> documents = [Document("a", "to be or not to be")]
        >>> files = write_token_files(
        ...     Path(tempfile.mkdtemp()), {"train": documents}, ByteTokenizer()
        ... )
        >>> batch = Windows(files["train"], context=8, seed=0).batch([0, 1, 2])
        >>> batch["inputs"].shape, torch.equal(batch["inputs"][:, 1:], batch["targets"][:, :-1])
        (torch.Size([3, 8]), True)
    """

    file: TokenFile
    context: int
    seed: int

    def __post_init__(self) -> None:
        tokens = len(self.file.tokens)
        if tokens < self.context + 1:
            raise ValueError(
                f"context: the training data has {tokens:,} tokens, too few for a window of "
                f"{self.context:,} and the token after it; a context up to {tokens - 1:,} would fit"
            )

    @property
    def per_epoch(self) -> int:
        """Number of windows in an epoch; one is given up so that the phase can vary."""
        return max(1, len(self.file.tokens) // self.context - 1)

    def start(self, sample: int) -> int:
        """Return where in the file the window of `sample` begins."""
        epoch, position = divmod(sample, self.per_epoch)
        phases = min(self.context, len(self.file.tokens) - self.per_epoch * self.context)
        phase = keyed_hash(self.seed, epoch, 0, 0) % phases
        return phase + self.context * permuted(position, self.per_epoch, (self.seed, epoch))

    @property
    def bits_per_byte(self) -> float:
        """What one nat per token is in bits per byte of text."""
        return self.file.bits_per_byte

    @property
    def num_tokens(self) -> int:
        """Number of tokens there are."""
        return len(self.file.tokens)

    def row(self, sample: int) -> np.ndarray:
        """Return the tokens of a sample and the one after them."""
        start = self.start(sample)
        return self.file.tokens[start : start + self.context + 1]

    def batch(self, samples: Iterable[int]) -> dict[str, torch.Tensor]:
        """Return `inputs`, `targets` and `reset` of some samples, each `(B, context)`."""
        return as_batch([self.row(sample) for sample in samples], self.file.end_of_document)


def cut(file: TokenFile, starts: Iterable[int], length: int) -> dict[str, torch.Tensor]:
    """Return the windows of `length` tokens at `starts`: inputs, targets and document starts."""
    return as_batch([file.tokens[n : n + length + 1] for n in starts], file.end_of_document)


def as_batch(rows: Sequence[np.ndarray], end_of_document: int) -> dict[str, torch.Tensor]:
    """Return rows of equally many tokens as inputs, targets and document starts."""
    tokens = torch.from_numpy(np.stack(rows).astype(np.int64))
    inputs = tokens[:, :-1].contiguous()
    return {
        "inputs": inputs,
        "targets": tokens[:, 1:].contiguous(),
        "reset": inputs == end_of_document,
    }


def fixed_windows(file: TokenFile, context: int, most: int) -> tuple[list[int], int]:
    """Return the starts and the length of at most `most` windows, spread evenly, none overlapping.

    A file shorter than one window is one shorter window.
    """
    length = min(context, len(file.tokens) - 1)
    windows = (len(file.tokens) - 1) // length
    count = min(most, windows)
    return [index * windows // count * length for index in range(count)], length


def permuted(index: int, size: int, key: tuple[int, int]) -> int:
    """Return where a keyed permutation of `range(size)` sends `index`.

    A Feistel network permutes a range of 4**n numbers; what falls outside `range(size)` goes
    round again (cycle walking), on average less than four times.

    Example:
        >>> [permuted(index, 5, key=(0, 0)) for index in range(5)]
        [2, 4, 1, 3, 0]
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for step in range(1, _ROUNDS + 1):
            left, right = right, left ^ (keyed_hash(*key, step, right) & mask)
        index = left << half | right
        if index < size:
            return index


def keyed_hash(seed: int, epoch: int, step: int, value: int) -> int:
    """Return a number below 2**64 that looks random, and is the same on every machine."""
    message = f"{seed} {epoch} {step} {value}".encode()
    return int.from_bytes(hashlib.blake2b(message, digest_size=8).digest(), "little")
