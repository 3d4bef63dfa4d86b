"""Write the figures of `results/*.json` where they are read.

The pages in `TABLES` have them between marks; `docs/speed.md` is made whole. With `--check` it only
says, by its exit code, whether all are up to date.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from estimator_tables import anomalies, forecasting, heartbeats
from markdown_parts import machine, source, source_above, table

ROOT = Path(__file__).parent.parent
LETTERS = {"slstm": "B T H V", "sLSTM layer": "B T D", "mlstm": "B H T K V"}


def demo(document: dict[str, Any]) -> str:
    results = document["results"]
    minutes, seconds = divmod(results["seconds"], 60)
    num_bytes = results["by_context"][0]["num_bytes"]
    text = (
        f"{results['steps']:,} steps, {results['tokens'] / 1e6:.2f} M bytes read in "
        f"{minutes}:{seconds:02d} minutes on {machine(document)}: "
        f"**{results['bits_per_byte']:.2f} bits per byte** on windows of files it has not seen. "
        f"It learnt on windows of 256 bytes; the memory carries further:\n\n"
        f"| memory emptied every | bits per byte on {num_bytes:,} bytes not seen |\n|---|---|\n"
    )
    for row in results["by_context"]:
        context = "document" if row["context"] is None else f"{row['context']:,} bytes"
        text += f"| {context} | {row['bits_per_byte']:.3f} |\n"
    return f"{text}\n({source(document, 'demo')})"


def decoding(document: dict[str, Any]) -> str:
    rows = document["results"]["rows"]
    contexts = sorted({row["context"] for row in rows if "context" in row})
    groups: dict[tuple[str, str], dict[int | None, dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["weights"]), {})[row.get("context")] = row
    text = (
        f"ms per token at batch 1 on {machine(document)}, after so many tokens, and the memory "
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
    return f"{text}\n({source(document, 'decoding')})"


def laptop(document: dict[str, Any]) -> str:
    results = document["results"]
    times = results["milliseconds"]
    contexts = " and ".join(f"{int(context):,}" for context in times)
    return (
        f"xLSTM 7B's shapes with random int8 weights, {results['parameters']:,} parameters, on "
        f"{machine(document)}: {' and '.join(f'{taken:.0f}' for taken in times.values())} ms a "
        f"token after {contexts} tokens, where reading the weights takes "
        f"{results['reading_milliseconds']:.0f}; {results['prefill_tokens_per_second']:.0f} tokens "
        f"of a prompt a second; {results['peak_bytes'] / 1e9:.2f} GB at the peak, of which "
        f"{results['file_bytes'] / 1e9:.2f} are the mapped files.\n\n"
        f"({source(document, 'laptop')})"
    )


def compression(document: dict[str, Any]) -> str:
    """What smaller weights cost in perplexity, what smaller averages cost in loss."""
    results = document["results"]
    config, rows = results["config"], results["weights"]
    plain = rows[0]
    lines = []
    for row in rows:
        if "missing" in row:
            lines.append([row["what"], row["stored"], row["missing"], "", "", ""])
            continue
        change = row["perplexity"] / plain["perplexity"] - 1
        lines.append(
            [
                row["what"],
                row["stored"],
                f"{row['megabytes']:.2f}",
                f"{row['perplexity']:.4f}",
                f"{change:+.2%}",
                f"{row['logit_error']:.2%}",
            ]
        )
    heads = ["weights", "matrices rounded", "MB", "perplexity", "change", "logits off by (rms)"]
    text = (
        f"Blocks `{config['pattern']}` of width {config['d_model']}, {results['steps']} steps on "
        f"bytes of the Python library's source; perplexity a byte on {plain['num_bytes']:,} bytes "
        f"of files not seen. The large matrices are those that `quantize` stores: the dense "
        f"projections and the head, not the gates.\n\n{table(heads, lines)}\n"
    )
    lines = []
    for row in results["optimizers"]:
        if "missing" in row:
            lines.append([row["what"], row["missing"], "", ""])
            continue
        losses = ", ".join(f"{loss:.4f}" for loss in row["losses"])
        mean = sum(row["losses"]) / len(row["losses"])
        lines.append([row["what"], f"{row['state_megabytes']:.2f}", f"{mean:.4f}", losses])
    heads = ["optimiser", "its averages, MB", "loss not seen", "of each seed"]
    text += (
        f"The same model after {results['short_steps']} steps from each of some seeds, nats a byte:"
        f"\n\n{table(heads, lines)}\n"
    )
    torchao = f", torchao {results['torchao']}" if results["torchao"] else ""
    return f"{text}({source_above(document, 'compression')}{torchao})"


def rendered(page: str) -> str:
    """A page with every figure between marks as the results have it."""
    text = (ROOT / page).read_text()
    for name, make in TABLES[page].items():
        document = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
        begin, end = f"<!-- results: {name} -->", f"<!-- end: {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        block = f"{begin}\n{make(document)}\n{end}"
        text, found = pattern.subn(lambda _, block=block: block, text)
        assert found == 1, f"{page} must have {begin} once"
    return text


def speed(document: dict[str, Any]) -> str:
    """The ops benchmark: every row of it, with its ratio to ours."""
    results = document["results"]
    limits = results["ceilings"]
    text = (
        f"## The ops\n\n{machine(document)}; in "
        f"the same run a large float32 product reached {limits['matmul_gflops']} GFLOP/s, a copy "
        f"{limits['copy_gbytes']} GB/s. *Times ours*: time of forward "
        f"and backward over that of the first row of the group; above 1 is slower than ours. "
        f"*Share*: of the matrix rate, on the least arithmetic (recurrent products; causal half at "
        f"chunks of 64), forward and backward counted as three times forward. That product is "
        f"PyTorch's own, by MKL; ours may pass 100 %, since MKL does not use all of this processor "
        f"(`docs/log.md`).\n"
    )
    text += _groups(results["rows"])
    text += _lengths(results["lengths"]) + _small(results["small"])
    return f"{text}\n({source_above(document, 'ops')})\n"


def layers(document: dict[str, Any]) -> str:
    """The layers benchmark, beside `nn.LSTM`."""
    return (
        f"## Layers beside `nn.LSTM`\n\n{machine(document)}, float32. *Times ours*: time of "
        f"forward and backward over that of the first row of the group; above 1 is slower than "
        f"`SLSTM`.\n{_groups(document['results']['rows'])}\n"
        f"({source_above(document, 'layers')})\n\n"
    )


def _groups(rows: list[dict[str, Any]]) -> str:
    """A table for each op and size."""
    text = ""
    ours = None
    group = None
    for row in rows:
        if group != (row["op"], row["size"]):
            group, ours = (row["op"], row["size"]), None
            size = ", ".join(map(str, row["size"]))
            text += f"\n**{row['op']}** ({LETTERS[row['op']]}) = ({size})\n\n"
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
    return text


def _lengths(rows: list[dict[str, Any]]) -> str:
    batch, heads, _, key, value = rows[0]["size"]
    text = (
        f"\n### Linear in T\n\nThe native mlstm, (B H K V) = ({batch}, {heads}, {key}, {value}), "
        f"forward and backward. Of a linear cost, every step of time costs the same.\n\n"
        f"| T | both, ms | us a step of time | times T = {rows[0]['size'][2]:,} |\n"
        f"|---|---|---|---|\n"
    )
    for row in rows:
        text += f"| {row['size'][2]:,} | {row['both_ms']:.2f} | {row['microseconds_per_step']:.2f} "
        text += f"| {row['times_first']:.2f} |\n"
    return text


def _small(rows: list[dict[str, Any]]) -> str:
    """A line a size: the native kernel, and the fastest backend in plain PyTorch."""
    text = (
        "\n### Small calls\n\nFew steps of small heads with a memory to go on from, as in "
        "decoding, us. *Plain*: the fastest backend in plain PyTorch. *Times*: its time over the "
        "native one; below 1 the native one loses.\n"
    )
    sizes: dict[tuple[str, tuple[int, ...]], dict[str, dict[str, Any]]] = {}
    for row in rows:
        sizes.setdefault((row["op"], tuple(row["size"])), {})[row["what"]] = row
    for op in ("mlstm", "slstm"):
        text += (
            f"\n| {op}: {LETTERS[op]} | forward | plain | times | both | plain | times |\n"
            f"|---|---|---|---|---|---|---|\n"
        )
        for size in (size for name, size in sizes if name == op):
            backends = sizes[op, size]
            text += f"| {' '.join(map(str, size))} |"
            for field in ("forward_ms", "both_ms"):
                native = backends["native"][field]
                plain = min(row[field] for name, row in backends.items() if name != "native")
                text += f" {1e3 * native:.0f} | {1e3 * plain:.0f} | {plain / native:.2f} |"
            text += "\n"
    return text


def training(document: dict[str, Any]) -> str:
    """The models benchmark: a table of times, a table of memory."""
    results = document["results"]
    return (
        f"## A training step of a language model\n\n"
        f"{machine(document)}. Tokens per second through forward, cross entropy of the next byte, "
        f"backward and a fused AdamW update, in float32, vocabulary 257, width 256, every model "
        f"within 3 % of the same number of parameters. In brackets the time of a step over that of "
        f"ours, the first row: above 1 is slower than ours. An empty cell was not run. "
        f"xlstm's model is the very one that ours is; transformers' xLSTM "
        f"has no sLSTM, and trains with `use_cache=False` only; its Mamba runs without "
        f"`mamba_ssm`, which needs CUDA.\n\n"
        f"{_steps(results['steps'])}\n"
        f"### Memory of a training step\n\n"
        f"MB by which the process grows at its peak, batch 1, each figure from a process of its "
        f"own that has trained a step of 64 tokens before. The parameters and AdamW's averages are "
        f"not in it, the gradients are. Freed blocks of 64 kB and more go back to the system at "
        f"once (`MALLOC_MMAP_THRESHOLD_`); with glibc's own choice all need more.\n\n"
        f"{_memory(results['memory'])}\n"
        f"({source_above(document, 'models')})\n"
    )


def engine(document: dict[str, Any]) -> str:
    """The training benchmark: the engine beside a bare loop."""
    rows = [
        [
            f"{row['B']} x {row['T']:,}",
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['bare_milliseconds']:.1f}",
            f"{row['engine_milliseconds']:.1f}",
            f"{row['overhead']:+.1%}",
        ]
        for row in document["results"]["rows"]
    ]
    heads = ["B x T", "parameters", "bare loop, ms", "`exlstm train`, ms", "overhead"]
    return (
        f"### What the engine costs\n\n"
        f"{machine(document)}, float32. A step of `exlstm train`, with its batch, its reports and "
        f"its checks, and the same step (the same losses, bit for bit) in a loop of forward, loss, "
        f"backward, clip and AdamW that is handed its batches.\n\n{table(heads, rows)}\n"
        f"({source_above(document, 'training')})\n"
    )


def _steps(rows: list[dict[str, Any]]) -> str:
    cells: dict[str, dict[tuple[int, int], str]] = {}
    parameters = {}
    for row in rows:
        cell = "not installed"
        if not row.get("missing"):
            cell = f"{row['tokens_per_second']:,} ({row['times']:.2f})"
            parameters[row["what"]] = f"{row['parameters'] / 1e6:.2f} M"
        cells.setdefault(row["what"], {})[row["B"], row["T"]] = cell
    sizes = list(dict.fromkeys((row["B"], row["T"]) for row in rows))
    heads = [f"{batch} x {time:,}" for batch, time in sizes]
    lines = [
        [what, parameters.get(what, ""), *(by_size.get(size, "") for size in sizes)]
        for what, by_size in cells.items()
    ]
    return table(["B x T", "parameters", *heads], lines)


def _memory(rows: list[dict[str, Any]]) -> str:
    cells: dict[str, list[str]] = {}
    for row in rows:
        line = cells.setdefault(row["what"], [])
        line.append("not installed" if row.get("missing") else f"{row['peak_megabytes']:,.0f}")
    per_token = {
        row["what"]: f"{row['kilobytes_per_token']:.0f}" for row in rows if not row.get("missing")
    }  # the last, so that of the longest
    times = list(dict.fromkeys(row["T"] for row in rows if not row.get("missing")))
    heads = [f"T {time:,}" for time in times]
    lines = [
        [what, *line, *[""] * (len(times) - len(line)), per_token.get(what, "")]
        for what, line in cells.items()
    ]
    return table(["", *heads, f"kB a token, T {times[-1]:,}"], lines)


def speed_page() -> str:
    """docs/speed.md."""
    text = (
        "# Speed on a CPU\n\nMade by `benchmarks/render.py`. Medians, candidates in turn; "
        "compare ratios within a table.\n\n"
    )
    results = ROOT / "benchmarks/results"
    text += training(json.loads((results / "models.json").read_text())) + "\n"
    text += engine(json.loads((results / "training.json").read_text())) + "\n"
    text += layers(json.loads((results / "layers.json").read_text()))
    return text + speed(json.loads((results / "ops.json").read_text()))


def differences(document: dict[str, Any]) -> str:
    """Against NX-AI's packages and transformers: every table of that benchmark."""
    results = document["results"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    logits = [
        [row["what"], str(row["blocks"]), *(f"{row[name]:.1e}" for name in ("theirs", "ours"))]
        for row in results["logits"]
    ]
    theirs, ours = results["batches"]["theirs"], results["batches"]["ours"]
    moved = "6 tokens of padding on the left, with their mask, move the logits by"
    same = "of the next 20 greedy tokens, the same with that padding"
    words = {"padding_moves_logits_by": moved, "same_greedy_tokens": same}
    batches = [
        [
            words.get(key, key),
            *(f"{row[key]:g}" if key in words else row[key] for row in (theirs, ours)),
        ]
        for key in ours
        if key != "logits_rms"
    ]
    memories = {
        "transformers": "theirs",
        "transformers, its memory made float32 by hand": "theirs_float32",
        "exlstm": "ours",
    }
    runs = results["bfloat16"]
    steps = [f"{row['steps']:,}" for row in runs]
    decoded = [
        [what, runs[0][key]["dtype"], *(f"{row[key]['error']:.1%}" for row in runs)]
        for what, key in memories.items()
    ]
    gradients = [
        [row["what"], "yes" if row["norm"] else "no"]
        + [f"{row[name]:g}" if name in row else "" for name in "qkvifcn"]
        for row in results["gradients"]
    ]
    resets = [
        [f"{row['i_before']}, {row['i_after']}", f"{row['f']:g}", f"{row['reset']:g}"]
        for row in results["soft_reset"]
    ]
    finite = [
        [name, *("finite" if row[key] else "not finite" for key in ("h", "gradient"))]
        for name, row in results["extreme_gates"].items()
    ]
    return (
        f"{versions}; random weights, the same in all, width 128.\n\n"
        f"**Logits in float32**, 256 tokens: the largest difference from exlstm's in float64, over "
        f"the largest logit.\n\n{table(['', 'blocks', 'theirs', 'ours'], logits)}\n"
        f"**Batches**: transformers' xLSTM and exlstm.hf, 4 blocks of the 7B's kind, a prompt of "
        f"20 tokens; the rms of the logits is {theirs['logits_rms']} in both.\n\n"
        f"{table(['', 'transformers', 'exlstm.hf'], batches)}\n"
        f"**A bfloat16 model that decodes**, the same 4 blocks: the logits' error over the last 64 "
        f"tokens, relative to float64 with the same weights, after so many tokens.\n\n"
        f"{table(['', 'memory', *steps], decoded)}\n"
        f"**Gradients of the mLSTM**, float64 on a CPU: relative error of those of q, k, v, i, f "
        f"and of the memory c, n that came in, with and without a layer norm behind h.\n\n"
        f"{table(['', 'norm', *'qkvifcn'], gradients)}\n"
        f"**The start of a document** by a forget gate of -25, as xlstm-jax has it, and by "
        f"`reset`: how far the h of its 32 steps are from those of it alone, relative. i is in "
        f"front of the input gate, before and after that start.\n\n"
        f"{table(['i', 'f = -25', '`reset`'], resets)}\n"
        f"**The sLSTM with -100 in front of its input gate**, float32.\n\n"
        f"{table(['', 'h', 'gradient'], finite)}\n"
        f"({source_above(document, 'differences')})"
    )


TABLES: dict[str, dict[str, Callable[[dict[str, Any]], str]]] = {
    "README.md": {"demo": demo, "decoding": decoding, "laptop": laptop},
    "docs/fine-tuning.md": {"compression": compression},
    "docs/coming-from-nxai.md": {"differences": differences},
    "docs/classification.md": {"heartbeats": heartbeats},
    "docs/forecasting.md": {"forecasting": forecasting},
    "docs/anomalies.md": {"anomalies": anomalies},
}

if __name__ == "__main__":
    made = {ROOT / page: rendered(page) for page in TABLES}
    made[ROOT / "docs" / "speed.md"] = speed_page()
    if "--check" in sys.argv:
        sys.exit(any(path.read_text() != text for path, text in made.items()))
    for path, text in made.items():
        path.write_text(text)
