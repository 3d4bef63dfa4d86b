"""The verb `exlstm forecast`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    import pandas as pd

    from exlstm.forecast import XLSTMForecaster


@dataclass(frozen=True, kw_only=True)
class ForecastArguments:
    """Forecast the series in a CSV file: forecasts, their scores on the last horizon, a picture.

    A file is long, with the columns unique_id, ds and y, or wide, with one of time and a column of
    numbers for each series; the flags name columns that are called otherwise.
    """

    data: Annotated[Path, tyro.conf.Positional]
    """A CSV file with a header."""
    horizon: int = 24
    """Steps ahead."""
    out: Path | None = None
    """A new folder; without it, one beside the file, NAME-forecast."""

    id_column: str | None = None
    """Of a long file, the column that tells series apart."""
    time_column: str | None = None
    """The column of time: dates, or integers."""
    time_format: str | None = None
    """Of dates that are not as 2024-01-31 12:00, such as '%d/%m/%Y'."""
    value_columns: tuple[str, ...] = ()
    """What to forecast: the one column of a long file, or some of a wide one."""
    static: tuple[str, ...] = ()
    """Columns of a long file with one value a series."""
    past: tuple[str, ...] = ()
    """Columns of covariates that are known up to now."""
    future: tuple[str, ...] = ()
    """Columns of covariates that are known over the horizon too."""
    future_data: Path | None = None
    """A CSV file that has these over the horizon."""
    freq: str | None = None
    """From step to step: an offset of pandas such as h, or a number; without it, found out."""
    season_length: int | None = None
    """Steps of a season; without it, by the frequency."""

    conformal: bool = False
    """Widen the intervals to what held on a part kept apart; see docs/forecasting.md."""
    context_length: int | None = None
    """Steps a forecast reads; without it, at most 512."""
    pattern: str = "ss"
    """Blocks of the model: s an sLSTM, m an mLSTM."""
    d_model: int = 64
    """Its width."""
    max_epochs: int = 30
    """At most."""
    seed: int = 0
    """Makes the forecast repeatable."""


def forecast_command(arguments: ForecastArguments) -> None:
    """Fit on all but the last horizon, score on it, then forecast from the end."""
    try:
        forecaster: Any = forecaster_of(arguments).set_params(progress=True)
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from None

    from exlstm.data.atomic import new_folder
    from exlstm.forecast.backtest import fit_and_backtest

    out = arguments.out or arguments.data.with_name(f"{arguments.data.stem}-forecast")
    with new_folder(out) as partial:
        frame = frame_of(arguments)
        future = _future(arguments, frame)
        checked = fit_and_backtest(forecaster, frame, 1, arguments.horizon)
        quantiles = forecaster.predict_quantiles(future=future)
        quantiles.insert(2, "y_hat", forecaster.predict(future=future)["y_hat"])
        quantiles.to_csv(partial / "forecasts.csv", index=False)
        checked.forecasts.to_csv(partial / "checked.csv", index=False)
        table: Any = checked.scores[checked.scores["origin"] == "all"].drop(columns="origin")
        scores = {row.pop("forecaster"): _finite(row) for row in table.to_dict("records")}
        (partial / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
        forecaster.plot(future=future).savefig(partial / "forecast.png", dpi=120)
        forecaster.save(partial / "model")
    count = quantiles["unique_id"].nunique()
    print(f"{count} series, {arguments.horizon} steps of {forecaster.freq_}: {out}")
    print(f"scores on the last {arguments.horizon} steps, which were not fitted on:")
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))


def frame_of(arguments: ForecastArguments) -> pd.DataFrame:
    """The series of the file, as a long frame.

    Raises:
        ValueError: It cannot be read.
    """
    from exlstm.forecast.table import Columns, read_table

    columns = Columns(
        id=arguments.id_column,
        time=arguments.time_column,
        values=arguments.value_columns,
        static=arguments.static,
        over_time=(*arguments.past, *arguments.future),
        time_format=arguments.time_format,
    )
    return read_table(arguments.data, columns)


def forecaster_of(arguments: ForecastArguments) -> XLSTMForecaster:
    """The forecaster that the flags describe, not fitted."""
    from exlstm.forecast import XLSTMForecaster

    freq = arguments.freq
    return XLSTMForecaster(
        arguments.horizon,
        freq=int(freq) if freq is not None and freq.isdecimal() else freq,
        season_length=arguments.season_length,
        static=arguments.static,
        past=arguments.past,
        future=arguments.future,
        context_length=arguments.context_length,
        pattern=arguments.pattern,
        d_model=arguments.d_model,
        max_epochs=arguments.max_epochs,
        conformal=arguments.conformal,
        random_state=arguments.seed,
    )


def _future(arguments: ForecastArguments, frame: Any) -> Any:
    """The covariates known ahead, those of a wide file for every series."""
    from exlstm.forecast.table import Columns, read_table

    if arguments.future_data is None:
        if arguments.future:
            raise ValueError(f"future: {', '.join(arguments.future)} ahead: give --future-data")
        return None
    columns = Columns(
        id=arguments.id_column,
        time=arguments.time_column,
        over_time=arguments.future,
        time_format=arguments.time_format,
    )
    future = read_table(arguments.future_data, columns, has_values=False)
    if "unique_id" in future.columns:
        return future
    return frame[["unique_id"]].drop_duplicates().merge(future, how="cross")


def _finite(row: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in row.items()}
