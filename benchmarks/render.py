"""Write the figures of `results/*.json` where they are read.

README.md has them between marks; `docs/speed.md` is made whole. With `--check` it only says, by its
exit code, whether both are up to date.
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
    rows = document["results"]["rows"]
    contexts = sorted({row["context"] for row in rows if "context" in row})
    groups: dict[tuple[str, str], dict[int | None, dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["weights"]), {})[row.get("context")] = row
    text = (
        f"ms per token at batch 1 on {_machine(document)}, after so many tokens, and the memory "
        f"after the last:\n\n"
        f"| model | weights | {' | '.join(f'{context:,}' for context in contexts)} | memory, MB |\n"
        f"|---|---|{'---|' * len(contexts)}---|\n"
    )
    for (model, weights), found in groups.items():
        last = list(found.values())[-1]
        size = f" ({last['parameters'] / 1e6:.0f} M)" if "parameters" in last else ""
        cells = []
        for context in contexts:
            row = found.get(context, last)
            cells.append(row.get("missing") or f"{row['milliseconds']:.1f}")
        memory = f"{last['state_bytes'] / 1e6:.1f}" if "state_bytes" in last else ""
        text += f"| {model}{size} | {weights} | {' | '.join(cells)} | {memory} |\n"
    return f"{text}\n({_source(document, 'decoding')})"


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


def speed(document: dict[str, Any]) -> str:
    """docs/speed.md: every row of the ops benchmark, with its ratio to ours."""
    results = document["results"]
    limits = results["ceilings"]
    text = (
        f"# Speed of the ops on a CPU\n\nMade by `benchmarks/render.py`. {_machine(document)}; in "
        f"the same run a large float32 product reached {limits['matmul_gflops']} GFLOP/s, a copy "
        f"{limits['copy_gbytes']} GB/s. Medians, candidates in turn. *Times ours*: time of forward "
        f"and backward over that of the first row of the group; above 1 is slower than ours. "
        f"*Share*: of the matrix rate, on the least arithmetic (recurrent products; causal half at "
        f"chunks of 64), forward and backward counted as three times forward.\n"
    )
    ours = None
    group = None
    for row in results["rows"]:
        if group != (row["op"], row["size"]):
            group, ours = (row["op"], row["size"]), None
            letters = {"slstm": "B T H V", "sLSTM layer": "B T D", "mlstm": "B H T K V"}[row["op"]]
            size = ", ".join(map(str, row["size"]))
            text += f"\n**{row['op']}** ({letters}) = ({size})\n\n"
            text += "| | forward, ms | both, ms | times ours | share |\n|---|---|---|---|---|\n"
        if row.get("missing"):
            text += f"| {row['what']} | not installed | | | |\n"
            continue
        ours = ours or row
        share = f"{row['both_share']:.0%}" if "both_share" in row else ""
        text += (
            f"| {row['what']} | {row['forward_ms']:.2f} | {row['both_ms']:.2f} "
            f"| {row['both_ms'] / ours['both_ms']:.2f} | {share} |\n"
        )
    source = _source(document, "ops").replace("](benchmarks", "](../benchmarks")
    return f"{text}\n({source})\n"


if __name__ == "__main__":
    readme, page = ROOT / "README.md", ROOT / "docs" / "speed.md"
    ops = json.loads((ROOT / "benchmarks/results/ops.json").read_text())
    made = {readme: rendered(readme.read_text()), page: speed(ops)}
    if "--check" in sys.argv:
        sys.exit(any(path.read_text() != text for path, text in made.items()))
    for path, text in made.items():
        path.write_text(text)
