"""The score of a language model's settings: the validation loss its training run ends with."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from pathlib import Path

from exlstm.train.arguments import TrainArguments
from exlstm.train.child import check_end, final_loss, start
from exlstm.train.metrics import read_metrics
from exlstm.tune.space import Value
from exlstm.tune.study import Objective, Report

POLL = 0.2
"""Seconds between looks at a run's metrics."""


def training_objective(arguments: TrainArguments, runs: Path) -> Objective:
    """Train with some values in place of those given, in a process; each run keeps its folder.

    Args:
        arguments: What all runs share; `out` and `resume` are not looked at.
        runs: Folder of the runs. One that was interrupted goes on, one that ended is not repeated.
    """

    def objective(values: dict[str, Value], report: Report) -> float:
        name = ",".join(f"{key}={value}" for key, value in sorted(values.items()))
        train = replace(arguments, out=runs / name.replace("/", "_"), resume=False, **values)
        train.check()
        return _loss(train, report)

    return objective


def _loss(train: TrainArguments, report: Report) -> float:
    loss = final_loss(train)
    if loss is not None:
        return loss
    child = start(train)
    seen = 0
    try:
        while child.poll() is None:
            time.sleep(POLL)
            seen = _report_new(train, seen, report)
    except BaseException:  # stopped early, or Ctrl-C: the run saves a checkpoint and ends
        child.send_signal(signal.SIGINT)
        child.communicate()
        raise
    _, errors = child.communicate()
    return check_end(train, child.returncode, errors)


def _report_new(train: TrainArguments, seen: int, report: Report) -> int:
    """Report the validation losses after step `seen`; the last step they are of."""
    for line in read_metrics(train.out / "metrics.jsonl"):
        loss = line.get("validation_loss")
        if line["step"] > seen and loss is not None:
            seen = line["step"]
            report(seen, loss)
    return seen
