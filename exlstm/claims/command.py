"""`exlstm claims list | run | report`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from exlstm.claims import CLAIMS, Claim, Profile
from exlstm.claims.mechanism import MECHANISMS, train_model
from exlstm.claims.report import (
    model_path,
    origins_path,
    results_path,
    write_report,
)
from exlstm.experiments.origin import append_origin, origin
from exlstm.experiments.sweep import sweep


@dataclass(frozen=True, kw_only=True)
class ListClaims:
    """Name the claims, and how much there is to run."""


@dataclass(frozen=True, kw_only=True)
class RunClaims:
    """Run the experiments of claims. What a file has already is not repeated."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Which; without any, all."""
    profile: Profile = "quick"
    """quick: each under about ten minutes on two cores. full: closer to the paper."""
    out: Path = Path("out/claims")
    """A folder for the results."""
    data: str = ""
    """What the language models read: a file, a folder or a quoted glob of texts. Without it, the
    source of Python's standard library."""
    jobs: int | None = None
    """Processes, each of one thread; without it, one a core."""


@dataclass(frozen=True, kw_only=True)
class ReportClaims:
    """Write a page with verdicts, numbers and pictures from the results."""

    folder: Annotated[Path, tyro.conf.Positional]
    """With the results."""
    page: Path = Path("docs/claims.md")
    """A Markdown file to write."""
    images: Path = Path("docs/images")
    """A folder for its pictures."""


@tyro.conf.configure(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True, kw_only=True)
class ClaimsArguments:
    """Check what the xLSTM paper says, in experiments that can fail."""

    do: (
        Annotated[ListClaims, tyro.conf.subcommand("list")]
        | Annotated[RunClaims, tyro.conf.subcommand("run")]
        | Annotated[ReportClaims, tyro.conf.subcommand("report")]
    )


def claims(arguments: ClaimsArguments) -> None:
    """Do what the command line says."""
    do = arguments.do
    if isinstance(do, ListClaims):
        _list()
    elif isinstance(do, RunClaims):
        _run(do)
    else:
        if not do.folder.is_dir():
            raise ValueError(f"there is no folder {do.folder}")
        write_report(list(CLAIMS.values()), do.folder, do.page, do.images)
        print(f"wrote {do.page}")


def _list() -> None:
    width = max(map(len, CLAIMS))
    for name, claim in CLAIMS.items():
        quick, full = len(claim.runs("quick")), len(claim.runs("full"))
        size = f"{quick} runs, about {claim.minutes} min; full {full}"
        print(f"{name:<{width}}  {claim.title} ({size})")


def _run(arguments: RunClaims) -> None:
    unknown = [name for name in arguments.names if name not in CLAIMS]
    if unknown:
        raise ValueError(f"there is no claim {unknown[0]!r}; there are: {', '.join(CLAIMS)}")
    failed = 0
    for name in dict.fromkeys(arguments.names or CLAIMS):
        print(f"{CLAIMS[name].title}, {arguments.profile}")
        failed += _run_one(CLAIMS[name], arguments)
    if failed:
        print(f"exlstm: {failed} runs failed; the files say why", file=sys.stderr)
        raise SystemExit(1)


def _run_one(claim: Claim, arguments: RunClaims) -> int:
    """Run what is missing, say what came out, and return how many runs have failed."""
    out = results_path(arguments.out, claim, arguments.profile)
    before = out.stat().st_size if out.exists() else 0
    try:
        runs = claim.runs(arguments.profile, arguments.data)
        records = sweep(runs, out, jobs=arguments.jobs)
    finally:  # also where Ctrl-C ended it: what is done by then is in the file
        if out.exists() and out.stat().st_size > before:
            path = origins_path(arguments.out, claim, arguments.profile)
            append_origin(path, _origin(claim, arguments))
    for mechanism in MECHANISMS:
        path = model_path(arguments.out, mechanism.claim)
        if mechanism.claim == claim.name and not path.exists():
            _train(mechanism.run, path)
    verdict = claim.verdict(records, arguments.profile)
    print(f"{claim.name}: {verdict.outcome}. {verdict.because}")
    return sum("error" in record for record in records)


def _train(run: Any, path: Path) -> None:
    from tqdm import tqdm

    with tqdm(total=run.steps, unit="step", disable=None, desc="a model to look into") as bar:
        train_model(run, path, progress=bar.update)


def _origin(claim: Claim, arguments: RunClaims) -> dict[str, Any]:
    words = ["exlstm", "claims", "run", claim.name, "--profile", arguments.profile]
    words += ["--data", Path(arguments.data).name] if arguments.data else []
    return origin(words, arguments.jobs)
