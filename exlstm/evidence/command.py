"""`exlstm evidence run | report`."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from exlstm.claims import decide
from exlstm.evidence.comparison import COMPARISON, criteria
from exlstm.evidence.report import origins_path, write_report
from exlstm.experiments.origin import append_origin, origin
from exlstm.experiments.sweep import sweep


@dataclass(frozen=True, kw_only=True)
class RunEvidence:
    """Train the models on a text: each learning rate, then more seeds at the best.

    A run that the folder has already is not repeated.
    """

    data: str = ""
    """A file, a folder or a quoted glob of texts. Without it, the source of Python's standard
    library."""
    out: Path = Path("out/evidence")
    """A folder for the results."""
    jobs: int | None = None
    """Processes, each of one thread; without it, one a core."""


@dataclass(frozen=True, kw_only=True)
class ReportEvidence:
    """Write a page with the criteria, numbers and pictures from the results."""

    folder: Annotated[Path, tyro.conf.Positional]
    """With the results."""
    page: Path = Path("docs/evidence.md")
    """A Markdown file to write."""
    images: Path = Path("docs/images")
    """A folder for its pictures."""


@tyro.conf.configure(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True, kw_only=True)
class EvidenceArguments:
    """Compare xLSTMs with Llama and the LSTM on real text: same size, tokens and tuning."""

    do: (
        Annotated[RunEvidence, tyro.conf.subcommand("run")]
        | Annotated[ReportEvidence, tyro.conf.subcommand("report")]
    )


def evidence(arguments: EvidenceArguments) -> None:
    """Do what the command line says."""
    do = arguments.do
    if isinstance(do, RunEvidence):
        _run(do)
    else:
        write_report(COMPARISON, do.folder, do.page, do.images)
        print(f"wrote {do.page}")


def _run(arguments: RunEvidence) -> None:
    data, jobs = arguments.data, arguments.jobs
    measure = COMPARISON.measure(data)
    name = re.sub(r"\W+", "-", Path(data).stem).strip("-")  # of a glob, too
    out = arguments.out / f"{name or 'text' if data else 'python'}.jsonl"
    before = out.stat().st_size if out.exists() else 0
    try:
        records = sweep(COMPARISON.first_runs(data), out, jobs=jobs, measure=measure)
        further = COMPARISON.further_runs(data, records)
        records += sweep(further, out, jobs=jobs, measure=measure)
    finally:  # also where Ctrl-C ended it: what is done by then is in the file
        if out.exists() and out.stat().st_size > before:
            words = ["exlstm", "evidence", "run"]
            words += ["--data", Path(data).name] if data else []
            append_origin(origins_path(out), origin(words, jobs))
    verdict = decide(criteria(COMPARISON.scores(records)))
    print(f"{out.stem}: {verdict.outcome}. {verdict.because}")
    if failed := sum("error" in record for record in records):
        print(f"exlstm: {failed} runs failed; {out} says why", file=sys.stderr)
        raise SystemExit(1)
