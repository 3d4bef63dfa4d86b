"""A training run as a process of its own: how it is started, and what its end means."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict, replace

from exlstm.train.arguments import TrainArguments
from exlstm.train.metrics import read_metrics
from exlstm.train.run_folder import RUN_FILE


def start(arguments: TrainArguments) -> subprocess.Popen[str]:
    """Begin a run, or go on with the one in its folder; its stderr is to be read."""
    values = asdict(replace(arguments, resume=(arguments.out / RUN_FILE).exists()))
    command = [sys.executable, "-m", "exlstm.cli", "train"]
    for name, value in values.items():
        if value is True:
            command.append(f"--{name.replace('_', '-')}")
        elif value not in (None, False):
            command.append(f"--{name.replace('_', '-')}={value}")
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads or os.cpu_count() or 1)}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )


def check_end(arguments: TrainArguments, code: int, errors: str) -> float:
    """The loss a run ended with.

    Raises:
        FloatingPointError: It broke off.
        ValueError: It stopped with a mistake, or left no loss.
    """
    loss = final_loss(arguments)
    if code or loss is None:
        kind = FloatingPointError if code == 1 else ValueError
        last = errors.strip().splitlines()[-1:] or ["it left no loss"]
        raise kind(f"the run in {arguments.out} stopped: {last[0]}")
    return loss


def final_loss(arguments: TrainArguments) -> float | None:
    """The validation loss at the last step, where it is there."""
    rows = read_metrics(arguments.out / "metrics.jsonl")
    if not rows or rows[-1]["step"] != arguments.steps:
        return None
    return rows[-1].get("validation_loss")
