"""Forecasting of series of numbers in scikit-learn's style; `pip install 'exlstm[ts]'`."""

try:
    import pandas as _pandas  # noqa: F401
    import sklearn as _sklearn  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"exlstm.forecast needs {error.name}: pip install 'exlstm[ts]'", name=error.name
    ) from None

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
