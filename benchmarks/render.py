"""Write the figures of `results/*.json` into README.md, between the marks that name them.

`python benchmarks/render.py --check` only says whether README.md is up to date.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def demo(document: dict[str, Any]) -> str:
    results = document["results"]
    minutes, seconds = divmod(results["seconds"], 60)
    num_bytes = results["by_context"][0]["num_bytes"]
    text = (
        f"{results['steps']:,} steps, {results['tokens'] / 1e6:.2f} M bytes read in "
        f"{minutes}:{seconds:02d} minutes on {_machine(document)}: "
        f"**{results['bits_per_byte']:.2f} bits per byte** on windows of files it has not seen. "
        f"It learnt on windows of 256 bytes; the memory carries further:\n\n"
        f"| memory emptied every | bits per byte on {num_bytes:,} bytes not seen |\n|---|---|\n"
    )
    for row in results["by_context"]:
        context = "document" if row["context"] is None else f"{row['context']:,} bytes"
        text += f"| {context} | {row['bits_per_byte']:.3f} |\n"
    return f"{text}\n({_source(document, 'demo')})"


def decoding(document: dict[str, Any]) -> str:
    results = document["results"]
    rows = "\n".join(
        f"| {row['context']:,} | {row['milliseconds']:.1f} | {row['state_bytes'] / 1e6:.1f} |"
        for row in results["rows"]
    )
    return (
        f"A model of {results['parameters'] / 1e6:.0f} M parameters in float32, batch 1, on "
        f"{_machine(document)}:\n\n"
        f"| tokens read before | ms per token | memory, MB |\n|---|---|---|\n{rows}\n\n"
        f"({_source(document, 'decoding')})"
    )


def _machine(document: dict[str, Any]) -> str:
    machine = document["machine"]
    return f"{machine['cores']} cores of an {machine['cpu']}"


def _source(document: dict[str, Any], name: str) -> str:
    path = f"benchmarks/results/{name}.json"
    return (
        f"[`{path}`]({path}), `{document['command']}`, commit {document['commit']}, "
        f"torch {document['versions']['torch']}"
    )


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {"demo": demo, "decoding": decoding}


def rendered(text: str) -> str:
    """README.md with every figure as the results have it."""
    for name, table in TABLES.items():
        document = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
        begin, end = f"<!-- results: {name} -->", f"<!-- end: {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        block = f"{begin}\n{table(document)}\n{end}"
        text, found = pattern.subn(lambda _, block=block: block, text)
        assert found == 1, f"README.md must have {begin} once"
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    text = readme.read_text()
    if "--check" in sys.argv:
        sys.exit(text != rendered(text))
    readme.write_text(rendered(text))
