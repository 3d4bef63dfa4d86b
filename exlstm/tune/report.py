"""What a study found: a page, the best values as JSON, and two pictures."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from exlstm.data.atomic import replacing, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 10
"""Trials on the page."""


def write_report(study: optuna.Study, out: Path) -> None:
    """Write `best.json`, `report.md`, `history.png` and `importances.png`, new each time."""
    best = {"score": study.best_value, "trial": study.best_trial.number, **study.best_params}
    write_text(out / "best.json", json.dumps(best, indent=1))
    weights = importances(study)
    write_text(out / "report.md", page(study, weights))
    for name, figure in {"history": _history(study), "importances": _bars(weights)}.items():
        with replacing(out / f"{name}.png") as file:
            figure.savefig(file, format="png", dpi=120)


def importances(study: optuna.Study) -> dict[str, float]:
    """The share of each name in what makes the best trials differ from the rest (PED-ANOVA).

    Watanabe et al. 2023, https://arxiv.org/abs/2304.10255. Empty where too few trials have ended.
    """
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(finished) < 4:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        weights = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {name: float(weight) for name, weight in weights.items()}


def page(study: optuna.Study, weights: dict[str, float]) -> str:
    """The page in Markdown."""
    finished = sorted(
        study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)),
        key=lambda trial: trial.value or 0.0,
    )
    pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    refused = [trial for trial in pruned if "problem" in trial.user_attrs]
    names = list(finished[0].params)
    lines = [
        f"# {len(finished) + len(pruned)} trials",
        "",
        f"{len(finished)} to the end, {len(pruned) - len(refused)} stopped early, "
        f"{len(refused)} not possible. Lower scores are better.",
        "",
        f"| trial | score | {' | '.join(names)} |",
        f"|---|---|{'---|' * len(names)}",
        *(_row(trial, names) for trial in finished[:SHOWN]),
        "",
        "![The score of each trial](history.png)",
    ]
    if weights:
        lines += ["", "| name | importance |", "|---|---|"]
        lines += [f"| {name} | {weight:.2f} |" for name, weight in weights.items()]
        lines += ["", "![Importances](importances.png)"]
    if refused:
        lines += ["", "Not possible:", ""]
        lines += [f"- trial {trial.number}: {trial.user_attrs['problem']}" for trial in refused]
    return "\n".join(lines) + "\n"


def _row(trial: FrozenTrial, names: list[str]) -> str:
    values = (
        f"{value:.4g}" if isinstance(value, float) else str(value)
        for value in map(trial.params.__getitem__, names)
    )
    return f"| {trial.number} | {trial.value:.5g} | {' | '.join(values)} |"


def _history(study: optuna.Study) -> Figure:
    from matplotlib.figure import Figure

    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    numbers = [trial.number for trial in finished]
    scores = [trial.value or 0.0 for trial in finished]
    lowest = [min(scores[: place + 1]) for place in range(len(scores))]
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(numbers, scores, "o", markersize=4, label="a trial")
    axes.step(numbers, lowest, where="post", label="the best so far")
    axes.set(xlabel="trial", ylabel="score")
    axes.legend()
    return figure


def _bars(weights: dict[str, float]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 1 + 0.35 * max(1, len(weights))), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(weights)[::-1], list(weights.values())[::-1])
    axes.set(xlabel="importance", xlim=(0, 1))
    return figure
