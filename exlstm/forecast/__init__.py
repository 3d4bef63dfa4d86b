"""Forecasting of series of numbers in scikit-learn's style; `pip install 'exlstm[ts]'`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exlstm.forecast.backtest import CrossValidation as CrossValidation
    from exlstm.forecast.forecaster import XLSTMForecaster as XLSTMForecaster
    from exlstm.forecast.scores import coverage as coverage
    from exlstm.forecast.scores import crps as crps
    from exlstm.forecast.scores import mase as mase
    from exlstm.forecast.scores import pinball as pinball
    from exlstm.forecast.scores import seasonal_error as seasonal_error
    from exlstm.forecast.scores import smape as smape
    from exlstm.forecast.scores import sql as sql
    from exlstm.forecast.scores import wql as wql

_SCORES = ("coverage", "crps", "mase", "pinball", "seasonal_error", "smape", "sql", "wql")
_HOMES = {"CrossValidation": "backtest", "XLSTMForecaster": "forecaster"}
_HOMES |= dict.fromkeys(_SCORES, "scores")


def __getattr__(name: str) -> Any:
    """Import on first use: the command line needs no pandas to name this verb."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise ModuleNotFoundError(
            f"exlstm.forecast needs {package}: pip install 'exlstm[ts]'", name=package
        ) from None


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
