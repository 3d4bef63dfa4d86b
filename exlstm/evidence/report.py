"""The page of the evidence, made from the results alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from exlstm.claims import decide
from exlstm.claims.figures import save
from exlstm.claims.report import plain
from exlstm.evidence.comparison import CRITERION, Comparison, Score, criteria
from exlstm.evidence.figures import draw
from exlstm.experiments.origin import origin_lines, read_lines
from exlstm.experiments.sweep import Record

_HEAD = """# Evidence: xLSTM beside Llama and the LSTM on real text

Equal parameters, equal tokens, equal tuning. This page is made from the results by one command, and
what does not hold stands here too:

```
exlstm evidence run --data TEXT --out {folder}
exlstm evidence report {folder} --page {page} --images {images}
```

**Models.** Each stands between the same embedding and head of bytes and has about three million
parameters; Llama is that of `transformers`, with rotary positions, and the LSTM is `torch.nn.LSTM`
of two layers, without residual branches or norms. So its embedding begins with PyTorch's standard
deviation of 1; the others' with √(2 / 5D), with which the LSTM was far slower to learn anything. No
model has dropout.

**Training.** {num_bytes:,} bytes each: {steps:,} steps of {batch} windows of {context} bytes, drawn
from the text at random, the same for all models. AdamW (0.9, 0.99), weight decay 0.1, 10 % warm-up,
a cosine to 1e-5, gradients clipped at 1, float32, one thread. Every model has the learning rates
{lrs} with seed {first}, takes the one that is better on the validation rows, and has the seeds
{others} at that one. This is far from convergence: it says who learns fast from few bytes.

**Text.** Of one file the last {left_out:.0%} are left out of everything, of a folder about as large
a share of the files; the validation rows are from 5 % of the rest. The bits below are of the text
left out: of at most {segments} segments of {longest:,} bytes, read in windows of {context} bytes,
each from an empty memory.

**Length.** The same bytes are read again in longer windows, up to {most} times those of the
training: each in one pass, with the memory carried, or with attention to all of it. So the columns
differ in nothing but how much a model may remember.

**Criterion.** {criterion}

"""


def origins_path(results: Path) -> Path:
    """Where it is written by what, on which machine, the results came about."""
    return results.with_suffix(".origins.jsonl")


def write_report(comparison: Comparison, folder: Path, page: Path, images: Path) -> None:
    """Write the page and its pictures.

    Args:
        comparison: What the results are of.
        folder: Of results: a file for each text.
        page: A Markdown file.
        images: A folder.

    Raises:
        ValueError: There are no results.
    """
    files = [path for path in sorted(folder.glob("*.jsonl")) if ".origins" not in path.name]
    if not files:
        raise ValueError(f"there are no results in {folder}")
    page.parent.mkdir(parents=True, exist_ok=True)
    link = Path(os.path.relpath(images, page.parent)).as_posix()
    sections = [_head(comparison, folder, page, images)]
    for path in files:
        records = comparison.records(read_lines(path))
        scores = comparison.scores(records)
        sections.append(_section(comparison, path.stem, records, scores))
        if scores:
            title = _TITLES.get(path.stem, path.stem)
            picture = f"evidence-{path.stem}.svg"
            save(draw(comparison, scores, title), images / picture)
            sections.append(f"![{title}: bits per byte]({link}/{picture})\n")
        sections += origin_lines(origins_path(path))
    page.write_text("\n".join(sections).rstrip("\n") + "\n", encoding="utf-8")


_TITLES = {
    "python": "The source of Python's standard library",
    "tinyshakespeare": "Shakespeare's plays",
}


def _head(comparison: Comparison, folder: Path, page: Path, images: Path) -> str:
    return _HEAD.format(
        folder=plain(folder),
        page=plain(page),
        images=plain(images),
        num_bytes=comparison.num_bytes,
        steps=comparison.steps,
        batch=comparison.batch_size,
        context=comparison.context,
        lrs=" and ".join(f"{lr:g}" for lr in comparison.lrs),
        first=comparison.seeds[0],
        others=" and ".join(map(str, comparison.seeds[1:])),
        left_out=comparison.left_out,
        segments=comparison.num_segments,
        longest=comparison.context * comparison.times[-1],
        most=comparison.times[-1],
        criterion=CRITERION,
    )


def _section(
    comparison: Comparison, name: str, records: Sequence[Record], scores: Sequence[Score]
) -> str:
    text = f"## {_TITLES.get(name, name)}\n\n"
    if comparison.is_done(records):
        verdict = decide(criteria(scores))
        text += f"**{verdict.outcome.capitalize()}.** {verdict.because}.\n"
    else:
        text += f"**Not run to the end.** {len(records)} runs are done.\n"
    if failed := sum("error" in record for record in records):
        text += f"\n{failed} runs failed.\n"
    if not scores:
        return text
    return f"{text}\n{_table(comparison, scores)}\n{_lengths(comparison, scores)}"


def _table(comparison: Comparison, scores: Sequence[Score]) -> str:
    head = [
        "model",
        "parameters",
        "lr",
        "bits per byte",
        "from",
        "to",
        "seeds",
        "CPU minutes",
        "bytes/CPU s",
    ]
    rows = []
    for score in scores:
        first, bits = score.results[0], score.bits()
        seconds = median(one["evaluations"][-1]["cpu_seconds"] for one in score.results)
        rows.append([
            f"{score.model.label} `{score.model.text}`, width {score.model.d_model}",
            f"{first['num_params']:,}", f"{score.lr:g}",
            *(f"{value:.3f}" for value in (median(bits), min(bits), max(bits))),
            str(len(bits)), f"{seconds / 60:.1f}", f"{comparison.num_bytes / seconds:,.0f}",
        ])  # fmt: skip
    return _markdown(head, rows)


def _lengths(comparison: Comparison, scores: Sequence[Score]) -> str:
    head = ["bits per byte at", *(f"{times} x" for times in comparison.times)]
    rows = []
    for score in scores:
        cells = []
        for times in comparison.times:
            change = f" ({median(score.change(times)):+.1%})" if times > 1 else ""
            cells.append(f"{median(score.bits(times)):.3f}{change}")
        rows.append([score.model.label, *cells])
    return _markdown(head, rows)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
