"""Domains on disk: the text of each, tokenised once into a file that is read piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exlstm.data.piece import Settings, read_span
from exlstm.data.readers import decode
from exlstm.data.sources import Source, find_sources, plan_pieces
from exlstm.data.token_file import ShardWriter, TokenFile, Tokens, token_dtype
from exlstm.evaluate.domains import Domain

if TYPE_CHECKING:
    from exlstm.data import Tokenizer

_SPAN = 1 << 24
"""Bytes of a file in memory at once."""


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document in token files; only the slices asked for are read."""

    tokens: Tokens
    start: int
    end: int

    def __len__(self) -> int:
        """Number of tokens, the one that opens the document included."""
        return self.end - self.start

    def __getitem__(self, where: slice) -> np.ndarray:
        """Return some of the tokens, read now."""
        start, end, _ = where.indices(len(self))
        return self.tokens[self.start + start : self.start + max(start, end)]


def stored_documents(tokens: Tokens, starts: np.ndarray) -> list[StoredDocument]:
    """Return the documents that begin at `starts`, each to the next."""
    ends = [*starts[1:].tolist(), len(tokens)]
    return [StoredDocument(tokens, *ends) for ends in zip(starts.tolist(), ends, strict=True)]


def domain_of_tokens(name: str, file: TokenFile) -> Domain:
    """Return all the documents of a token file as one domain."""
    return Domain(name, stored_documents(file.tokens, np.asarray(file.starts)), file.num_bytes)


def find_domains(data: str) -> dict[str, list[Source]]:
    """Return the domains of a corpus: each sub-folder and each file of a folder is one.

    Files are found as by `exlstm prepare`; of a glob, the part of the path after the fixed one
    names the domain, and a single file is a domain.

    Raises:
        ValueError: There is no such corpus, no domain in it, or an empty one; it is named.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> (root / "code").mkdir()
        >>> for name in ("code/a.py", "code/b.py", "news.txt"):
        ...     _ = (root / name).write_text("text")
        >>> {name: len(files) for name, files in find_domains(str(root)).items()}
        {'code': 2, 'news.txt': 1}
    """
    if Path(data).is_dir() and not _visible(Path(data)):
        raise ValueError(f"data: {data} has no domains; give a folder of folders or files of text")
    found: dict[str, list[Source]] = {}
    for source in find_sources([data]):
        found.setdefault(source.name.split("/")[0], []).append(source)
    if Path(data).is_dir():
        for path in _visible(Path(data)):
            if path.name not in found:
                raise _empty(path.name)
    return found


def read_domains(
    data: str,
    tokenizer: Tokenizer,
    file: Path,
    *,
    text_field: str = "text",
    progress: Callable[[int], object] = lambda num_bytes: None,
) -> list[Domain]:
    r"""Tokenise the domains of a corpus into a new file, which they are read from then.

    Memory holds a part of a file of text at a time, and some hundred bytes a document.

    Args:
        data: A folder, a file or a glob, see `find_domains`: text, JSON lines or Parquet.
        tokenizer: Of the model.
        file: Is written; must stay as long as the domains are used.
        text_field: Of JSON lines and Parquet files.
        progress: Told how many bytes have been read since it was told last.

    Raises:
        ValueError: As `find_domains`, or a file is not UTF-8, or no text of that field; it is
            named.

    Example:
        >>> import tempfile
        >>> from exlstm.data import ByteTokenizer
        >>> root = Path(tempfile.mkdtemp())
        >>> (root / "data").mkdir()
        >>> _ = (root / "data" / "a.jsonl").write_text('{"text": "hi"}\n{"text": "!"}\n')
        >>> (domain,) = read_domains(str(root / "data"), ByteTokenizer(), root / "tokens")
        >>> domain.name, domain.num_bytes, [each[:].tolist() for each in domain.documents]
        ('a.jsonl', 3, [[256, 104, 105], [256, 33]])
    """
    settings = Settings(
        text_field=text_field, separator="", val_share=0.0, seed=0, shard_bytes=_SPAN
    )
    rows: list[tuple[str, list[int], int]] = []
    with file.open("wb") as stream:
        writer = ShardWriter(stream, tokenizer)
        for name, sources in find_domains(data).items():
            starts, before = [], writer.num_bytes
            for piece in plan_pieces(sources, _SPAN, b"", text_field):
                for span in piece:
                    for segment in read_span(sources[span.source], span, settings):
                        if segment.offset == 0:
                            starts.append(writer.num_tokens)
                            writer.begin_document()
                        writer.add(decode(segment), len(segment.data))
                        progress(len(segment.data))
            if writer.num_bytes == before:
                raise _empty(name)
            rows.append((name, starts, writer.num_bytes - before))
        writer.finish()
    tokens = Tokens([(file, writer.num_tokens)], token_dtype(tokenizer.vocab_size))
    starts = np.array([start for _, own, _ in rows for start in own], np.int64)
    documents = iter(stored_documents(tokens, starts))
    return [Domain(name, [next(documents) for _ in own], size) for name, own, size in rows]


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _empty(name: str) -> ValueError:
    return ValueError(
        f"data: the domain {name} is empty; take it away, or name the others by a glob"
    )
