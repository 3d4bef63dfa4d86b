"""A fitted forecaster as tensors and JSON."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import torch

from exlstm.estimators import Saved, read, write
from exlstm.forecast.encoding import Encoding
from exlstm.forecast.panel import Panel
from exlstm.models.forecaster import ForecasterConfig, XLSTMForecastModel

if TYPE_CHECKING:
    from exlstm.forecast.forecaster import XLSTMForecaster

Forecaster = TypeVar("Forecaster", bound="XLSTMForecaster")


def save_fitted(forecaster: XLSTMForecaster, folder: str | os.PathLike[str]) -> None:
    """See `XLSTMForecaster.save`. A generator or a function among the parameters is not kept."""
    parameters = forecaster.get_params()
    parameters["progress"] = parameters["progress"] is True
    if not isinstance(parameters["random_state"], int | None):
        parameters["random_state"] = None
    if isinstance(parameters["freq"], pd.DateOffset):
        parameters["freq"] = parameters["freq"].freqstr
    history = forecaster.history_
    for id in history.ids:
        if isinstance(id, bool) or not isinstance(id, str | int):
            raise ValueError(f"unique_id: {id!r} cannot be saved, text and integers can")
    ends = pd.Index(history.ends)
    dates = isinstance(ends, pd.DatetimeIndex)
    fitted = {
        "layout": forecaster.layout_,
        "freq": forecaster.freq_,
        "season_length": forecaster.season_length_,
        "losses": forecaster.losses_,
        "config": asdict(forecaster.model_.config),
        "encoding": asdict(forecaster.encoding_),
        "ids": history.ids,
        "static": history.static,
        "ends": (ends.asi8 if dates else ends).tolist(),
        "unit": ends.unit if dates else None,
        "time_zone": str(ends.tz) if dates and ends.tz is not None else None,
    }
    tensors = {f"model.{name}": value for name, value in forecaster.model_.state_dict().items()}
    tensors["history.values"] = torch.from_numpy(np.concatenate(history.values))
    tensors["history.lengths"] = torch.from_numpy(history.lengths)
    if forecaster.widenings_ is not None:
        tensors["widenings"] = torch.from_numpy(forecaster.widenings_.copy())
    parameters = {name: _json(value) for name, value in parameters.items()}
    write(folder, Saved("XLSTMForecaster", parameters, fitted, tensors))


def load_fitted(kind: type[Forecaster], folder: str | os.PathLike[str]) -> Forecaster:
    """See `XLSTMForecaster.load`."""
    saved = read(folder, "XLSTMForecaster")
    parameters: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in saved.parameters.items()
    }
    forecaster, fitted, tensors = kind(**parameters), saved.fitted, saved.tensors
    model = XLSTMForecastModel(ForecasterConfig(**fitted["config"]))
    model.load_state_dict(saved.part("model."))
    ends = pd.Index(fitted["ends"])
    if fitted["unit"] is not None:
        ends = pd.DatetimeIndex(np.array(fitted["ends"]).view(f"M8[{fitted['unit']}]"))
        if fitted["time_zone"] is not None:
            ends = ends.tz_localize("UTC").tz_convert(fitted["time_zone"])
    lengths = tensors["history.lengths"].tolist()
    forecaster.model_ = model.eval().requires_grad_(False)
    forecaster.encoding_ = Encoding(**fitted["encoding"])
    wider = tensors.get("widenings")
    forecaster.widenings_ = None if wider is None else wider.numpy()
    forecaster.losses_, forecaster.layout_ = fitted["losses"], fitted["layout"]
    forecaster.freq_, forecaster.season_length_ = fitted["freq"], fitted["season_length"]
    forecaster.context_length_ = model.config.context_length
    forecaster.history_ = Panel(
        fitted["ids"],
        list(ends),
        fitted["freq"],
        [part.numpy() for part in tensors["history.values"].split(lengths)],
        [tuple(one) for one in fitted["static"]],
    )
    return forecaster


def _json(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return list(value) if isinstance(value, tuple | np.ndarray) else value
