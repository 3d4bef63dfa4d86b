"""The forecaster as one of sktime's."""
# pyright: basic, reportMissingImports=false

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandas as pd

try:
    from sktime.forecasting.base import BaseForecaster
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"exlstm.adapters.sktime needs {error.name}: pip install sktime"
    ) from None

from exlstm.forecast import XLSTMForecaster


class ExlstmForecaster(BaseForecaster):
    """`exlstm.forecast.XLSTMForecaster` with sktime's data, horizons and tests.

    One series, as far ahead as the last step of `fh` in `fit`. Point forecasts are medians.
    `update` moves the state on and never refits, whatever `update_params` is.

    Args:
        context_length: As in `XLSTMForecaster`, and so all the rest.
        patch_length: Steps of a token of the model.
        season_length: Steps of a season.
        pattern: Blocks of the model.
        d_model: Its width.
        num_heads: Its heads.
        dropout: In it, while it is trained.
        max_epochs: At most.
        windows_per_epoch: Drawn anew in every epoch.
        batch_size: Windows a step of training.
        learning_rate: Its peak.
        patience: Epochs without a better validation loss.
        quantiles: Which are learned; intervals reach as far as these.
        random_state: An integer makes fits repeatable.

    Example:
        >>> import numpy as np
        >>> import pandas as pd
        >>> from exlstm.adapters.sktime import ExlstmForecaster
        >>> y = pd.Series(np.sin(np.arange(80) / 3))
        >>> forecaster = ExlstmForecaster(d_model=16, max_epochs=1, random_state=0)
        >>> forecaster.fit(y, fh=[1, 2, 3]).predict().index.tolist()
        [80, 81, 82]
    """

    _tags: ClassVar[dict[str, Any]] = {
        "capability:multivariate": False,
        "capability:exogenous": False,
        "capability:insample": False,
        "capability:pred_int": True,
        "capability:pred_int:insample": False,
        "capability:missing_values": True,
        "capability:update": True,
        "capability:random_state": True,
        "y_inner_mtype": "pd.Series",
        "requires-fh-in-fit": True,
        "python_dependencies": ["torch", "scikit-learn"],
        "authors": ["the exlstm authors"],
    }

    def __init__(
        self,
        context_length: int | None = None,
        patch_length: int | None = None,
        season_length: int | None = None,
        pattern: str = "ss",
        d_model: int = 64,
        num_heads: int = 4,
        dropout: float = 0.0,
        max_epochs: int = 30,
        windows_per_epoch: int = 4096,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        patience: int = 5,
        quantiles: tuple[float, ...] = (
            0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99
        ),
        random_state: int | None = None,
    ) -> None:  # fmt: skip
        self.context_length = context_length
        self.patch_length = patch_length
        self.season_length = season_length
        self.pattern = pattern
        self.d_model = d_model
        self.num_heads = num_heads
        self.dropout = dropout
        self.max_epochs = max_epochs
        self.windows_per_epoch = windows_per_epoch
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.patience = patience
        self.quantiles = quantiles
        self.random_state = random_state
        super().__init__()

    def _fit(self, y: pd.Series, X: None, fh: Any) -> ExlstmForecaster:
        horizon = int(fh.to_relative(self.cutoff).to_numpy().max())
        self.forecaster_ = XLSTMForecaster(horizon, **self.get_params(deep=False))
        self.forecaster_.fit(y.to_numpy(dtype=np.float64))
        self.name_ = y.name
        return self

    def _update(self, y: pd.Series, X: None = None, update_params: bool = True) -> ExlstmForecaster:
        self.forecaster_.update(y.to_numpy(dtype=np.float64))
        return self

    def _predict(self, fh: Any, X: None = None) -> pd.Series:
        ahead = self._steps(fh)
        return pd.Series(self.forecaster_.predict()[ahead], self._index(fh), name=self.name_)

    def _predict_quantiles(self, fh: Any, X: None, alpha: list[float]) -> pd.DataFrame:
        ahead = self._steps(fh)
        found = self.forecaster_.predict_quantiles(quantiles=alpha)[ahead]
        columns = pd.MultiIndex.from_product([self._get_varnames(), alpha])
        return pd.DataFrame(found, index=self._index(fh), columns=columns)

    def _steps(self, fh: Any) -> np.ndarray:
        """Places of the steps asked for in a forecast."""
        ahead = fh.to_relative(self.cutoff).to_numpy().astype(int)
        longest = self.forecaster_.horizon
        if ahead.max() > longest:
            raise ValueError(
                f"fh reaches {ahead.max()} steps ahead, the forecaster was fitted for {longest}"
            )
        return ahead - 1

    def _index(self, fh: Any) -> pd.Index:
        return fh.get_expected_pred_idx(cutoff=self.cutoff)

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Parameters that are quick to fit, for sktime's own tests."""
        small = {"d_model": 8, "num_heads": 2, "max_epochs": 1, "windows_per_epoch": 8}
        return [{**small, "random_state": 0}, {**small, "pattern": "m", "context_length": 8}]
