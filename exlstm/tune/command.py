"""`exlstm tune`: the settings of a model, searched for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from exlstm.anomaly.command import AnomaliesArguments
from exlstm.forecast.command import ForecastArguments
from exlstm.train.arguments import TrainArguments
from exlstm.tune.space import Space, Value, parse_space

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from exlstm.tune.study import Objective


@dataclass(frozen=True, kw_only=True)
class Training(TrainArguments):
    """A language model: each trial is an `exlstm train`, its score the last validation loss."""

    out: tyro.conf.Suppress[Path] = Path()
    resume: tyro.conf.Suppress[bool] = False


@dataclass(frozen=True, kw_only=True)
class Forecast(ForecastArguments):
    """Forecasts of the series in a CSV file: the score is the scaled quantile loss.

    The last horizon is not looked at: `exlstm forecast` then says how good what was found is.
    """

    out: tyro.conf.Suppress[Path | None] = None
    future_data: tyro.conf.Suppress[Path | None] = None
    folds: int = 3
    """How many horizons before that one are forecast, each by a fit on what lies before it."""


@dataclass(frozen=True, kw_only=True)
class Anomalies(AnomaliesArguments):
    """A detector for the series in a CSV file: the score is how much its end surprises it."""

    out: tyro.conf.Suppress[Path] = Path()


@dataclass(frozen=True, kw_only=True)
class Classes:
    """A classifier of sequences in a text file: the score is the log loss."""

    data: Annotated[Path, tyro.conf.Positional]
    """A row a sequence, without a header: its class, then its numbers, between commas or spaces."""
    folds: int = 3
    """Parts of the rows, each classified by a fit on the others."""
    seed: int = 0
    """Of the networks."""


@dataclass(frozen=True, kw_only=True)
class TuneArguments:
    """Search for the settings of a model that make its score low, by Optuna.

    Interrupted and started again with the same flags, it goes on.
    """

    out: Path
    """Folder of the study."""
    trials: int = 20
    """Of the whole study; those stopped early count."""
    tried: Annotated[tuple[str, ...], tyro.conf.arg(name="try"), tyro.conf.UseAppendAction] = ()
    """A setting and what to try: `learning-rate=log:1e-4..1e-2`, `d-model=32..128/32`,
    `pattern=ms,mmms`."""
    study_seed: int = 0
    """Of the choices."""
    of: Annotated[
        Annotated[Training, tyro.conf.subcommand("train")]
        | Annotated[Forecast, tyro.conf.subcommand("forecast")]
        | Annotated[Anomalies, tyro.conf.subcommand("anomalies")]
        | Annotated[Classes, tyro.conf.subcommand("classify")],
        tyro.conf.arg(name=""),
    ]


class Target(NamedTuple):
    """What is tuned.

    Attributes:
        settings: What may be tried.
        objective: Makes the score of some.
    """

    settings: set[str]
    objective: Callable[[], Objective]


def tune_command(arguments: TuneArguments) -> None:
    """Do the search and print where its report is.

    Raises:
        ValueError: A setting is not possible, or the folder holds another study.
    """
    space = parse_space(arguments.tried)
    try:
        from exlstm.tune.study import tune

        target = _target(arguments)
    except ModuleNotFoundError as error:
        raise ValueError(f"tune needs {error.name}: pip install 'exlstm[tune,ts]'") from None
    _check_names(space, target.settings)
    fixed = {name: value for name, value in asdict(arguments.of).items() if name not in space}
    study = tune(
        target.objective(),
        space,
        arguments.out,
        trials=arguments.trials,
        what={name: _plain(value) for name, value in fixed.items()},
        seed=arguments.study_seed,
        progress=_print_trial,
    )
    best = ", ".join(f"{name} {_shown(value)}" for name, value in study.best_params.items())
    print(f"best: {study.best_value:.5g} with {best}; {arguments.out / 'report.md'}")


def _target(arguments: TuneArguments) -> Target:
    of = arguments.of
    if isinstance(of, Training):
        from exlstm.tune.language import training_objective

        names = {field.name for field in fields(of)} - {"out", "resume"}
        return Target(names, lambda: training_objective(of, arguments.out / "runs"))

    from exlstm.tune import estimators

    if isinstance(of, Forecast):
        from exlstm.forecast.command import forecaster_of, frame_of

        forecaster = forecaster_of(of)
        # The rest says what is forecast, not how.
        names = set(forecaster.get_params()) - {
            "horizon", "freq", "season_length", "static", "past", "future", "quantiles",
            "conformal", "calibration_share", "progress", "random_state",
        }  # fmt: skip
        return Target(
            names, lambda: estimators.forecast_objective(forecaster, frame_of(of), of.folds)
        )
    if isinstance(of, Anomalies):
        from exlstm.anomaly.command import detector_of, read_series

        detector = detector_of(of)
        # The rest says what surprises, and when that is abnormal.
        names = set(detector.get_params()) - {
            "method", "span", "half_life", "contamination", "false_alarm_rate",
            "validation_share", "random_state",
        }  # fmt: skip
        return Target(
            names,
            lambda: estimators.anomaly_objective(detector, read_series(of.fit or of.data, of)),
        )
    from exlstm.classify import XLSTMClassifier

    classifier = XLSTMClassifier(random_state=of.seed)
    names = set(classifier.get_params()) - {"unseen_codes", "random_state"}
    return Target(
        names,
        lambda: estimators.classifier_objective(classifier, *read_rows(of.data), of.folds),
    )


def read_rows(path: Path) -> tuple[Any, Any]:
    """Sequences (N, T) and their classes (N,), as in UCR's files.

    Raises:
        ValueError: The file is not as in `Classes`.
    """
    import pandas as pd

    try:
        table = pd.read_csv(
            path, header=None, sep=r"[,\s]+", engine="python", skipinitialspace=True
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"data: {path} is no table of numbers: {error}") from None
    table = table.dropna(axis="columns", how="all")  # of blanks in front
    numbers = table.iloc[:, 1:]
    words = [column for column in numbers if numbers[column].dtype.kind not in "fiu"]
    if words or numbers.empty:
        where = f"column {words[0] + 1} has words" if words else "it has one column"
        raise ValueError(f"data: {path} must have a class and then numbers in each row: {where}")
    return numbers.to_numpy(float), table.iloc[:, 0].to_numpy()


def _check_names(space: Space, known: set[str]) -> None:
    for name in space:
        if name not in known:
            raise ValueError(
                f"there is no setting {name!r} to try; there are: {', '.join(sorted(known))}"
            )


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, int | float | str | bool | None) else str(value)


def _print_trial(trial: FrozenTrial, study: optuna.Study) -> None:
    values = ", ".join(f"{name} {_shown(value)}" for name, value in trial.params.items())
    if trial.state.name == "COMPLETE":
        ended = f"{trial.value:.5g}"
    else:
        ended = trial.user_attrs.get("problem", "stopped early")
    print(f"trial {trial.number}: {values}: {ended}", flush=True)


def _shown(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
