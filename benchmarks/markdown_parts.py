"""What all tables share: Markdown, and where figures come from."""

from __future__ import annotations

from typing import Any


def table(heads: list[str], lines: list[list[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def machine(document: dict[str, Any]) -> str:
    machine = document["machine"]
    return f"{machine['cores']} cores of an {machine['cpu']}"


def source(document: dict[str, Any], name: str) -> str:
    path = f"benchmarks/results/{name}.json"
    return (
        f"[`{path}`]({path}), `{document['command']}`, commit {document['commit']}, "
        f"torch {document['versions']['torch']}"
    )


def source_above(document: dict[str, Any], name: str) -> str:
    return source(document, name).replace("](benchmarks", "](../benchmarks")
