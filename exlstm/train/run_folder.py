"""The folder of a run: who may use it, what the run began with, and whether a resume is the same.

run.json  metrics.jsonl  loss.png  data/  checkpoint-000500/  ...
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import shutil
import subprocess
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from exlstm.data.atomic import write_text
from exlstm.models import XLSTMConfig
from exlstm.train.arguments import TrainArguments

RUN_FILE = "run.json"

_MATTERS = (
    "context", "batch_size", "steps", "learning_rate", "warmup", "min_lr_ratio", "weight_decay",
    "beta1", "beta2", "eps", "grad_clip", "seed", "schedule", "decay_share", "ramp_from",
    "ramp_steps", "z_loss", "spike_factor", "precision", "compile", "carry_state",
)  # fmt: skip


def check_folder(folder: Path, *, resume: bool) -> None:
    """Check that a run may begin in `folder`, or that it holds one to go on with.

    Raises:
        ValueError: if not, with the ways out.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out: {folder} is a file; give the name of a folder")
    holds_run = (folder / RUN_FILE).exists()
    if resume and not holds_run:
        raise ValueError(
            f"out: {folder} holds no run to go on with; leave out --resume to begin one"
        )
    if not resume and holds_run:
        raise ValueError(f"out: {folder} holds a run already; add --resume, or give another --out")
    # Hidden files are no one's work: our own lock, or what a file manager leaves.
    if not resume and folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
        raise ValueError(f"out: {folder} is not empty and holds no run; give another --out")


def settings(
    arguments: TrainArguments, config: XLSTMConfig, train_digest: str, validation_digest: str
) -> dict[str, Any]:
    """Return what decides the weights a run ends with: a resumed run must have the same."""
    return {
        "data": train_digest,
        "val_data": validation_digest,
        **{name: getattr(arguments, name) for name in _MATTERS},
        **config.to_dict(),
    }


def write_run(folder: Path, arguments: TrainArguments, settled: dict[str, Any]) -> None:
    """Write `run.json`, which makes the folder a run."""
    packages = ("exlstm", "torch", "transformers", "accelerate", "numpy", "safetensors")
    run = {
        "arguments": arguments.to_dict(),
        "settings": settled,
        "versions": {"python": platform.python_version(), **_versions(packages)},
        "git": _git_commit(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    write_text(folder / RUN_FILE, json.dumps(run, indent=2) + "\n")


def remove_run(folder: Path) -> None:
    """Undo `write_run`, and the token files, of a run that cannot begin."""
    (folder / RUN_FILE).unlink()
    shutil.rmtree(folder / "data", ignore_errors=True)


def check_same(folder: Path, settled: dict[str, Any]) -> None:
    """Check that a run is resumed as it began.

    Raises:
        ValueError: if a setting differs, with both values.
    """
    # A setting younger than the run has its default.
    defaults = {field.name: field.default for field in fields(TrainArguments)}
    began = _read_run(folder)["settings"]
    for name in sorted(settled.keys() | began.keys()):
        now, then = settled.get(name), began.get(name, defaults.get(name))
        if now != then:
            raise ValueError(
                f"{name}: {now!r} is not what the run in {folder} began with, {then!r}; "
                "resume with that, or begin anew in another --out"
            )


def resumed_arguments(folder: Path) -> TrainArguments:
    """Return the arguments of the run in `folder`, ready to go on with it.

    Raises:
        ValueError: if it holds no run.
    """
    check_folder(folder, resume=True)
    began = TrainArguments.from_dict(_read_run(folder)["arguments"])
    return replace(began, out=folder, resume=True)


def _read_run(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))


def _versions(packages: tuple[str, ...]) -> dict[str, str | None]:
    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {package: version(package) for package in packages}


def _git_commit() -> str | None:
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
