"""The page of the claims, made from the results alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from exlstm.claims.claim import Claim, Profile, Record, Scores, Verdict
from exlstm.claims.figures import save
from exlstm.claims.mechanism import MECHANISMS, look_into
from exlstm.experiments.origin import origin_lines, read_lines

PROFILES: tuple[Profile, ...] = get_args(Profile)

_HEAD = """# Claims of the paper

Each claim is an experiment that can fail: its criterion was written before it ran, and what does
not hold stands here too. This page is made from the results by one command:

```
exlstm claims run --profile quick --out {folder}
exlstm claims report {folder} --page {page} --images {images}
```

A run that is done is not repeated. `quick` makes every claim small enough for about ten minutes on
two cores; `full` comes closer to the paper's sizes. In each claim all models have the same learning
rates to choose from, and take the one that is best in rows of the training lengths; seeds are 0, 1
and 2. Tables show the median over the seeds, then the smallest and the largest. Widths, learning
rates and numbers of steps of `quick` come from short trials with seed 0; the criteria were there
before. A verdict is

* **holds**: every condition of the criterion holds;
* **holds partly**: a condition that is the claim itself holds, and another one does not;
* **not shown**: no condition that is the claim itself holds, at this size: that refutes nothing;
* **not run**: there is no result yet, or not every run is done.

Claims are those of Beck et al. 2024, [arXiv 2405.04517](https://arxiv.org/abs/2405.04517), where no
other paper is named. Many of its numbers stand in figures without tables. Those called second-hand
are not read off the figure by us.
"""


def results_path(folder: Path, claim: Claim, profile: Profile) -> Path:
    """Where a sweep of a claim writes."""
    return folder / f"{claim.name}.{profile}.jsonl"


def origins_path(folder: Path, claim: Claim, profile: Profile) -> Path:
    """Where it is written by what, on which machine, the results came about."""
    return folder / f"{claim.name}.{profile}.origins.jsonl"


def model_path(folder: Path, claim: str) -> Path:
    """Where the model lies that is looked into."""
    return folder / f"{claim}.safetensors"


def write_report(claims: Sequence[Claim], folder: Path, page: Path, images: Path) -> None:
    """Write the page and its pictures.

    Args:
        claims: In the order of the page.
        folder: Of results, which may be of some claims only.
        page: A Markdown file.
        images: A folder.

    Raises:
        ValueError: A file of results does not hold what it should.
    """
    images.mkdir(parents=True, exist_ok=True)
    page.parent.mkdir(parents=True, exist_ok=True)
    link = Path(os.path.relpath(images, page.parent)).as_posix()
    overview = ["| claim | the paper | " + " | ".join(PROFILES) + " |"]
    overview.append("|---|---|" + "---|" * len(PROFILES))
    sections = []
    for claim in claims:
        found: dict[Profile, list[Record]] = {name: _read(folder, claim, name) for name in PROFILES}
        verdicts: dict[Profile, Verdict] = {
            name: claim.verdict(records, name) for name, records in found.items()
        }
        cells = " | ".join(verdicts[name].outcome for name in PROFILES)
        overview.append(f"| [{claim.title}](#{claim.name}) | {claim.paper} | {cells} |")
        section = [_opening(claim)]
        for name, records in found.items():
            section.append(_result(claim, name, records, verdicts[name]))
            if records and claim.scores(records):
                picture = f"claim-{claim.name}-{name}.svg"
                save(claim.figure(records, name), images / picture)
                section.append(f"![{claim.title}: {claim.metric.name}]({link}/{picture})\n")
            if records:
                section += origin_lines(origins_path(folder, claim, name))
        for mechanism in MECHANISMS:
            path = model_path(folder, mechanism.claim)
            if mechanism.claim == claim.name and path.exists():
                finding = look_into(mechanism, path)
                picture = f"claim-{claim.name}-mechanism.svg"
                save(finding.figure, images / picture)
                section.append(f"### How a trained model does it\n\n{finding.text}\n")
                section.append(f"![{claim.title}: a look inside]({link}/{picture})\n")
        sections.append("\n".join(section))
    head = _HEAD.format(folder=plain(folder), page=plain(page), images=plain(images))
    text = "\n".join([head, *overview, "", *sections])
    page.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def plain(path: Path) -> str:
    """A path as it may stand on a page: without where this machine keeps it."""
    return path.name if path.is_absolute() else path.as_posix()


def _read(folder: Path, claim: Claim, profile: Profile) -> list[Record]:
    lines = read_lines(results_path(folder, claim, profile))
    return claim.records(list({line["identity"]: line for line in lines}.values()), profile)


def _opening(claim: Claim) -> str:
    return (
        f'## <a id="{claim.name}"></a>{claim.title}\n\n'
        f"**The paper.** {claim.says} {claim.paper}\n\n"
        f"**Here.** {claim.setup.strip()}\n\n"
        f"**Criterion.** {claim.criterion}\n"
    )


def _result(claim: Claim, profile: Profile, records: Sequence[Record], verdict: Verdict) -> str:
    if not records:
        return f"**{profile.title()}: not run.**\n"
    text = f"**{profile.title()}: {verdict.outcome}.** {verdict.because}.\n"
    return f"{text}\n{_table(claim, claim.scores(records))}\n"


def _table(claim: Claim, scores: Scores) -> str:
    """Median and spread over the seeds; a column for what is not the same in all rows."""
    tasks, widths = ({getattr(one, name) for one in scores} for name in ("task", "d_model"))
    head = ["model", *["task"] * (len(tasks) > 1), *["width"] * (len(widths) > 1)]
    head += [
        "parameters",
        "lr",
        claim.metric.name,
        "from",
        "to",
        "seeds",
        "steps",
        "failed",
        "CPU-s/run",
    ]
    rows = [head, ["---"] * len(head)]
    for setting, score in scores.items():
        row = [f"{claim.labels.get(setting.model, setting.model)} `{setting.model}`"]
        row += [f"`{setting.task}`"] * (len(tasks) > 1)
        row += [str(setting.d_model)] * (len(widths) > 1)
        if score.results:
            row += [f"{score.results[0]['num_params']:,}", f"{score.lr:g}"]
            row += [f"{value:.4g}" for value in (score.median, score.low, score.high)]
            row += [str(len(score.results)), _range(score.results, "steps"), str(score.failed)]
            row += [_range(score.results, "cpu_seconds")]
        else:
            row += ["", "", "", "", "", "0", "", str(score.failed), ""]
        rows.append(row)
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    notes = {result["note"] for score in scores.values() for result in score.results}
    return lines + "\n" + "".join(f"\n{note}.\n" for note in sorted(notes) if note)


def _range(results: Sequence[Any], key: str) -> str:
    values = [result[key] for result in results if key in result]
    if not values:  # results from before CPU seconds were kept
        return ""
    low, high = round(min(values)), round(max(values))
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
