"""Token files: documents tokenised once into a flat memory-mapped array, and windows cut from it.

A `train.bin` holds the tokens of all documents, each **after** one end-of-document token, so that
this token at position t means: a new document starts here, empty the memory. `train.bin.json`
beside it holds what the numbers mean.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from exlstm.data.atomic import replacing, write_text
from exlstm.data.text import Document
from exlstm.data.tokenizer import Tokenizer

FORMAT = 1
_PIECE = 1 << 20
_ROUNDS = 6


@dataclass(frozen=True)
class TokenFile:
    """A tokenised corpus, open for reading."""

    path: Path
    tokens: np.ndarray
    """All tokens: a read-only memory map of uint16 or uint32."""
    num_bytes: int
    """UTF-8 bytes of the documents; end-of-document tokens have none."""
    vocab_size: int
    end_of_document: int
    digest: str
    """Of the tokenizer and of all names and texts: `corpus_digest`."""

    def documents(self) -> list[np.ndarray]:
        """Return the tokens of each document, the end-of-document token before it included."""
        (starts,) = np.nonzero(self.tokens == self.end_of_document)
        return np.split(self.tokens, starts[1:])

    @property
    def bits_per_byte(self) -> float:
        """What one nat per token is in bits per byte of text, over the whole file."""
        return len(self.tokens) / self.num_bytes / math.log(2)


def corpus_digest(documents: Iterable[Document], tokenizer: Tokenizer) -> str:
    """Return a digest that changes with the tokenizer, a document's name or its text."""
    digest = hashlib.blake2b(f"{FORMAT} {tokenizer.fingerprint}".encode(), digest_size=16)
    for name, text in documents:
        for part in (name.encode("utf-8", "surrogateescape"), text.encode("utf-8")):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.hexdigest()


def write_token_file(path: Path, documents: Sequence[Document], tokenizer: Tokenizer) -> TokenFile:
    """Tokenise `documents` into `path`, unless it holds exactly them already, and open it.

    The file appears under its name only when it is complete.

    Example:
        >>> import tempfile
        >>> from exlstm.data import ByteTokenizer
        >>> path = Path(tempfile.mkdtemp()) / "train.bin"
        >>> documents = [Document("a", "hi"), Document("b", "!")]
        >>> write_token_file(path, documents, ByteTokenizer()).tokens
        memmap([256, 104, 105, 256,  33], dtype=uint16)
    """
    digest = corpus_digest(documents, tokenizer)
    if path.exists() and _index_path(path).exists():
        present = open_token_file(path)
        if present.digest == digest:
            return present
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    num_tokens = num_bytes = 0
    starts = []
    # The index goes first and comes last: it is what makes the tokens a token file.
    _index_path(path).unlink(missing_ok=True)
    with replacing(path) as file:
        for name, text in documents:
            starts.append([name, num_tokens])
            file.write(np.array([tokenizer.end_of_document], dtype).tobytes())
            num_tokens += 1
            for piece in _pieces(text):
                ids = tokenizer.encode(piece)
                file.write(ids.astype(dtype).tobytes())
                num_tokens += len(ids)
                num_bytes += len(piece.encode("utf-8"))
    index = {
        "format": FORMAT,
        "vocab_size": tokenizer.vocab_size,
        "end_of_document": tokenizer.end_of_document,
        "dtype": dtype.name,
        "num_tokens": num_tokens,
        "num_bytes": num_bytes,
        "digest": digest,
        "documents": starts,
    }
    write_text(_index_path(path), json.dumps(index) + "\n")
    return open_token_file(path)


def open_token_file(path: Path) -> TokenFile:
    """Open a token file.

    Raises:
        ValueError: if it is missing, not one, or not of the length it says.
    """
    if not path.is_file() or not _index_path(path).is_file():
        raise ValueError(f"{path} is no token file with a {_index_path(path).name} beside it")
    index = json.loads(_index_path(path).read_text(encoding="utf-8"))
    dtype = np.dtype(index["dtype"])
    if path.stat().st_size != index["num_tokens"] * dtype.itemsize:
        raise ValueError(
            f"{path} has {path.stat().st_size} bytes where its index says "
            f"{index['num_tokens'] * dtype.itemsize}; delete both and tokenise again"
        )
    return TokenFile(
        path=path,
        tokens=np.memmap(path, dtype=dtype, mode="r"),
        num_bytes=index["num_bytes"],
        vocab_size=index["vocab_size"],
        end_of_document=index["end_of_document"],
        digest=index["digest"],
    )


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
        >>> from exlstm.data import ByteTokenizer
        >>> path = Path(tempfile.mkdtemp()) / "train.bin"
        >>> file = write_token_file(path, [Document("a", "to be or not to be")], ByteTokenizer())
        >>> batch = Windows(file, context=8, seed=0).batch([0, 1, 2])
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
        phase = _hash(self.seed, epoch, 0, 0) % phases
        return phase + self.context * permuted(position, self.per_epoch, (self.seed, epoch))

    def batch(self, samples: Iterable[int]) -> dict[str, torch.Tensor]:
        """Return `inputs`, `targets` and `reset` of some samples, each `(B, context)`."""
        return cut(self.file, [self.start(sample) for sample in samples], self.context)


def cut(file: TokenFile, starts: Iterable[int], length: int) -> dict[str, torch.Tensor]:
    """Return the windows of `length` tokens at `starts`: inputs, targets and document starts."""
    windows = np.stack([file.tokens[start : start + length + 1] for start in starts])
    tokens = torch.from_numpy(windows.astype(np.int64))
    inputs = tokens[:, :-1].contiguous()
    return {
        "inputs": inputs,
        "targets": tokens[:, 1:].contiguous(),
        "reset": inputs == file.end_of_document,
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
            left, right = right, left ^ (_hash(*key, step, right) & mask)
        index = left << half | right
        if index < size:
            return index


def _hash(seed: int, epoch: int, step: int, value: int) -> int:
    message = f"{seed} {epoch} {step} {value}".encode()
    return int.from_bytes(hashlib.blake2b(message, digest_size=8).digest(), "little")


def _pieces(text: str) -> Iterator[str]:
    """Cut a long text at line ends, so that tokens of all of it never lie in memory as int64."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + _PIECE) + 1 or len(text)
        yield text[start:end]
        start = end


def _index_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")
