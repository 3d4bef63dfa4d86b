"""A search that can be interrupted: Optuna's study in a folder, its report beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from exlstm.data.atomic import locked, write_text
from exlstm.tune.report import write_report
from exlstm.tune.space import Space, Value

STUDY_FILE, JOURNAL_FILE = "study.json", "journal.jsonl"

FIRST = 5
"""Trials that are drawn at random and run to their end."""

Report = Callable[[int, float], None]
"""Told the step and the score so far; ends the trial where others were better there."""
Objective = Callable[[dict[str, Value], Report], float]
"""The score of some values. A `ValueError` or `FloatingPointError` says that they do not do."""


def tune(
    objective: Objective,
    space: Space,
    out: Path,
    *,
    trials: int,
    what: dict[str, Any] | None = None,
    seed: int = 0,
    progress: Callable[[FrozenTrial, optuna.Study], object] | None = None,
) -> optuna.Study:
    """Search for the values with the lowest score.

    Trials are chosen by Optuna's TPE and stopped early by its median rule. Everything is in `out`:
    `study.json`, what is searched; `journal.jsonl`, every trial; `report.md`, `best.json` and
    pictures. Interrupted and called again, it goes on; a trial that was under way is done again.

    Args:
        objective: Gives the score of a trial's values, to be made small.
        space: What is tried.
        out: Folder of the study, a new one or its own.
        trials: Of the whole study; those that were stopped early count.
        what: What else the scores depend on, as JSON: a study goes on with the same only.
        seed: Of the choices.
        progress: Called after each trial.

    Returns:
        The study.

    Raises:
        ValueError: The folder holds a study of something else, a value is not possible, or no
            trial came to an end.

    Example:
        >>> import tempfile
        >>> from exlstm.tune.space import Range
        >>> folder = Path(tempfile.mkdtemp()) / "study"
        >>> def objective(values, report):
        ...     return (values["x"] - 1.0) ** 2
        >>> study = tune(objective, {"x": Range(-3.0, 3.0)}, folder, trials=15)
        >>> abs(study.best_params["x"] - 1.0) < 1.0
        True
        >>> print(*sorted(path.name for path in folder.glob("*[a-z]")))
        .lock best.json history.png importances.png journal.jsonl report.md study.json
    """
    if trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials}")
    if not space:
        raise ValueError("nothing is to be tried: give a range or a choice for a name")
    with locked(out):
        searched = {name: str(one) for name, one in space.items()}
        study = _open(out, {"space": searched, **(what or {})}, seed)
        _redo_interrupted(study)

        def evaluate(trial: optuna.Trial) -> float:
            values = {name: one.suggest(trial, name) for name, one in space.items()}

            def report(step: int, score: float) -> None:
                trial.report(score, step)
                if trial.should_prune():
                    raise optuna.TrialPruned

            try:
                return objective(values, report)
            except (ValueError, FloatingPointError) as error:
                trial.set_user_attr("problem", str(error))
                raise optuna.TrialPruned from error

        def after(study: optuna.Study, trial: FrozenTrial) -> None:
            if progress is not None:
                progress(trial, study)

        missing = trials - len(_ended(study))
        if missing > 0:
            study.optimize(evaluate, n_trials=missing, callbacks=[after])
        if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            problems = {trial.user_attrs.get("problem", "stopped early") for trial in study.trials}
            raise ValueError(f"no trial came to an end: {'; '.join(sorted(problems))}")
        write_report(study, out)
    return study


def _open(out: Path, settings: dict[str, Any], seed: int) -> optuna.Study:
    """The study of a folder, a new one if it is empty."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file, journal = out / STUDY_FILE, out / JOURNAL_FILE
    if file.exists():
        before = json.loads(file.read_text())
        now = json.loads(json.dumps(settings))
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                raise ValueError(
                    f"{out} holds a study with {name} {json.dumps(before.get(name))}, not "
                    f"{json.dumps(now.get(name))}; give the same, or another folder"
                )
    elif any(not path.name.startswith(".") for path in out.iterdir()):
        raise ValueError(f"{out} is not empty and holds no study; give another folder")
    else:
        write_text(file, json.dumps(settings, indent=1))
    storage = JournalStorage(JournalFileBackend(str(journal)))
    pruner = optuna.pruners.MedianPruner(n_startup_trials=FIRST)
    study = optuna.create_study(
        storage=storage, study_name="exlstm", load_if_exists=True, pruner=pruner
    )
    # Where a study goes on, not the choices of its first trials once more.
    study.sampler = optuna.samplers.TPESampler(
        seed=seed + len(study.trials), n_startup_trials=FIRST
    )
    return study


def _ended(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _redo_interrupted(study: optuna.Study) -> None:
    """Put the values of trials that were interrupted first in line, once."""
    redone = {trial.user_attrs.get("redoes") for trial in study.trials}
    for trial in study.get_trials(states=(TrialState.RUNNING, TrialState.FAIL)):
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
        if trial.params and trial.number not in redone:
            study.enqueue_trial(trial.params, user_attrs={"redoes": trial.number})
