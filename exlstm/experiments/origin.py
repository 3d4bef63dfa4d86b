"""Where results come from: the command, the commit, the day, the machine and its libraries."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import exlstm


def origin(words: Sequence[str], jobs: int | None) -> dict[str, Any]:
    """What a sweep was started by, and where. It stands on pages: let `words` hold no path.

    Args:
        words: The command, without the number of its processes.
        jobs: That number; `None` is one a core.
    """
    packages = [name for name in ("torch", "transformers", "numpy") if find_spec(name)]
    return {
        "command": shlex.join([*words, "--jobs", str(jobs or os.cpu_count() or 1)]),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{_cpu()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": {
            "exlstm": exlstm.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        },
    }


def append_origin(path: Path, one: dict[str, Any]) -> None:
    """Write it behind those that the file has."""
    with path.open("a") as file:
        file.write(json.dumps(one) + "\n")


def origin_lines(path: Path) -> list[str]:
    """The origins in a file as Markdown.

    Of each kind the last one: a sweep that was taken up again is named once.
    """
    kinds = {json.dumps({**one, "date": ""}, sort_keys=True): one for one in read_lines(path)}
    return [_line(one) for one in kinds.values()]


def read_lines(path: Path) -> list[Any]:
    """The lines of a JSONL file, none where there is no file; a last line cut short is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def _line(one: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
    return (
        f"*`{one['command']}`, commit {one['commit']}, {one['date']}; {versions}; "
        f"{one['machine']}.*\n"
    )


def _commit() -> str:
    """Of the repository that this package lies in; where it is installed otherwise, unknown."""
    folder = Path(exlstm.__file__).parents[1]
    if not (folder / ".git").exists():
        return "unknown"
    words = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
