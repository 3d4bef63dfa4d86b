"""`exlstm anomalies`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    import pandas as pd

    from exlstm.anomaly import XLSTMAnomalyDetector


@dataclass(frozen=True, kw_only=True)
class AnomaliesArguments:
    """Score every step of a series in a CSV file, and draw what is abnormal.

    It learns from the file itself, or from another with only normal steps.
    """

    data: Annotated[Path, tyro.conf.Positional]
    """A CSV file with a header: a row a step, the oldest first, an empty field a missing value."""
    out: Path = Path("anomalies")
    """A new folder: scores.csv, scores.png and model/, which XLSTMAnomalyDetector.load reads."""
    columns: tuple[str, ...] = ()
    """The columns to read; without it, all that are numbers."""
    time: str | None = None
    """The column with times or numbers of steps; without it, the first with times, if any."""
    fit: Path | None = None
    """Learn from this CSV file instead, which has the same columns."""
    method: Literal["prediction", "reconstruction"] = "prediction"
    """What surprises: a step given those before it, or the last steps given a few numbers."""
    contamination: float = 0.1
    """Share of the steps learnt from that is abnormal; it sets the threshold."""
    false_alarm_rate: float | None = None
    """Share of normal steps that may be marked; it sets the threshold instead."""
    half_life: float | None = None
    """Steps after which a surprise counts half in the score; without it, the detector's."""
    epochs: int | None = None
    """Passes over the data at most; without it, the detector's."""
    seed: int = 0
    """Makes the result repeatable."""


def anomalies_command(arguments: AnomaliesArguments) -> None:
    """Do what the verb is told, and print how many steps are marked and where most."""
    try:
        import pandas as pd

        detector = detector_of(arguments)
    except ModuleNotFoundError as error:
        raise ValueError(f"anomalies: needs {error.name}: pip install 'exlstm[ts]'") from None
    from exlstm.data.atomic import new_folder

    if arguments.out.exists():  # said before the work, not after
        raise ValueError(f"out: {arguments.out} exists already: give the name of a new folder")
    frame = read_series(arguments.data, arguments)
    learnt = frame if arguments.fit is None else read_series(arguments.fit, arguments)
    detector.fit(learnt)
    scores = detector.decision_function(frame)
    marked = scores > detector.threshold_
    figure = detector.plot(frame)
    table = pd.DataFrame({"score": scores, "anomaly": marked.astype(int)}, index=frame.index)
    with new_folder(arguments.out) as partial:
        table.to_csv(partial / "scores.csv")
        figure.savefig(partial / "scores.png", dpi=150)
        detector.save(partial / "model")
    print(
        f"{marked.sum():,} of {len(frame):,} steps of {', '.join(map(str, frame.columns))} are "
        f"above {detector.threshold_:.3f}; the highest score, {scores.max():.3f}, is at "
        f"{frame.index[int(scores.argmax())]}"
    )
    print(f"{arguments.out}: scores.csv, scores.png, model")


def detector_of(arguments: AnomaliesArguments) -> XLSTMAnomalyDetector:
    """The detector that the flags describe, not fitted."""
    from exlstm.anomaly import XLSTMAnomalyDetector

    changes = {"half_life": arguments.half_life, "max_epochs": arguments.epochs}
    return XLSTMAnomalyDetector(
        method=arguments.method, contamination=arguments.contamination,
        false_alarm_rate=arguments.false_alarm_rate, random_state=arguments.seed,
        **{name: value for name, value in changes.items() if value is not None},
    )  # fmt: skip


def read_series(path: Path, arguments: AnomaliesArguments) -> pd.DataFrame:
    """Read a file: a frame of numbers, its index the times.

    Raises:
        ValueError: It cannot be read.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"data: {path} is no CSV file: {error}") from None
    asked = [*arguments.columns, *([arguments.time] if arguments.time else [])]
    unknown = [name for name in asked if name not in frame.columns]
    if unknown:
        raise ValueError(f"{path} has no column {unknown[0]!r}; it has {', '.join(frame.columns)}")
    time = arguments.time
    for name in frame.columns if time is None else ():
        if frame[name].dtype.kind not in "fiub":
            times = pd.to_datetime(frame[name], errors="coerce", format="mixed")
            if len(times) and times.notna().all():
                time = name
                break
    if time is not None:
        index = frame.pop(time)
        if index.dtype.kind not in "fiu":
            index = pd.to_datetime(index, errors="coerce", format="mixed")
        if index.isna().any():
            raise ValueError(f"{path}: column {time!r} has rows that are no time")
        if not index.is_monotonic_increasing:
            raise ValueError(f"{path}: the rows are not in the order of their {time!r}")
        frame.index = pd.Index(index, name=time)
    else:
        frame.index.name = "step"
    numbers = [name for name in frame.columns if frame[name].dtype.kind in "fiub"]
    columns = list(arguments.columns) or numbers
    if not columns:
        raise ValueError(f"{path} has no column of numbers; it has {', '.join(frame.columns)}")
    return frame.loc[:, columns]
