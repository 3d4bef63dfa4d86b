"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the name `path` once it is written and on the disk.

    A process killed before that leaves `path` as it was, and a hidden file that the next
    `replacing` of the same path overwrites.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with replacing(path) as file:
        ...     _ = file.write(b"whole")
        ...     path.exists()
        False
        >>> path.read_bytes()
        b'whole'
    """
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file by `replacing`."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))
