"""THE ESTIMATOR: `XLSTMForecaster`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from exlstm.estimators import Training
from exlstm.forecast.backtest import CrossValidation, fit_and_backtest
from exlstm.forecast.encoding import Encoding
from exlstm.forecast.fitting import calibrate, forecast, learn
from exlstm.forecast.grid import season_of
from exlstm.forecast.inputs import Layout, advanced, history_of, known_ahead, read
from exlstm.forecast.panel import Panel
from exlstm.forecast.results import as_given, between
from exlstm.forecast.rows import Covariates
from exlstm.forecast.saving import load_fitted, save_fitted
from exlstm.forecast.settings import check_settings, patch_of, print_line
from exlstm.forecast.splits import Origins, split
from exlstm.forecast.windows import Windows
from exlstm.models.forecaster import ForecasterConfig, XLSTMForecastModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LONGEST_DEFAULT_CONTEXT = 512


class XLSTMForecaster(BaseEstimator):
    """Forecasts many series with one xLSTM, in scikit-learn's style.

    Series come as a long data frame with the columns `unique_id`, `ds` and `y` (and those of
    covariates), or as arrays: (time,), (series, time), or a list of (time,). Values and rows may be
    missing, rows may stand in any order, series may have different lengths. Forecasts come in the
    form of the input. Every forecast reads the last `context_length_` steps of its series and
    nothing else, standardised by themselves: a series in other units has the forecast in those, and
    one whose known values there are all equal is forecast to stay so, with intervals of width 0.

    Args:
        horizon: Steps ahead.
        freq: From step to step: an offset of pandas, such as "h", or a number for integer `ds`.
            `None` is found out.
        season_length: Steps of a season, for the seasonal naive forecast and scaled scores. `None`
            is by the frequency: a day, a week or a year (`exlstm.forecast.grid.season_of`).
        static: Columns with one value a series: numbers, or categories, told apart as 0 and 1.
        past: Columns of numbers that are known up to now.
        future: Columns of numbers that are known over the horizon too.
        quantiles: Which are learned; those between are interpolated.
        context_length: Steps a forecast reads. `None`: those of the longest series, at most 512.
        patch_length: Steps of a token of the model. `None`: seasons of about 16 steps together.
        pattern: Its blocks: s an sLSTM, m an mLSTM.
        d_model: Its width.
        num_heads: Its heads.
        dropout: In it, while it is trained.
        max_epochs: At most.
        windows_per_epoch: Drawn anew in every epoch, from all series alike by their length.
        batch_size: Windows a step of training.
        learning_rate: Its peak.
        weight_decay: Of matrices.
        patience: Training ends after this many epochs without a better validation loss.
        validation_windows: How many times the horizon at the end of each series chooses the best
            epoch; it is not trained on. 0: the last epoch is taken.
        conformal: Widen the intervals to what held on windows kept apart: see
            `exlstm.forecast.conformal`. `quantiles` must then be symmetric.
        calibration_share: How much of the end of each series is kept apart for that.
        random_state: An integer makes fits repeatable.
        progress: `True` prints a line an epoch to stderr; a function is given it.

    Attributes:
        model_: The network.
        history_: The state: the last `context_length_` steps of every series.
        freq_: From step to step.
        context_length_: Steps a forecast reads.
        season_length_: Steps of a season.
        losses_: A line an epoch of the training.
        widenings_: With `conformal`, by step ahead and interval, in deviations of what is read.

    Raises:
        ValueError: By every method, not by the constructor: what is not as above, in one line.

    Example:
        >>> series = np.sin(np.arange(80) / 3)
        >>> forecaster = XLSTMForecaster(horizon=4, d_model=16, max_epochs=1, random_state=0)
        >>> forecaster.fit(series).predict().shape
        (4,)
    """

    def __init__(
        self,
        horizon: int = 24,
        *,
        freq: str | int | None = None,
        season_length: int | None = None,
        static: Sequence[str] = (),
        past: Sequence[str] = (),
        future: Sequence[str] = (),
        quantiles: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        context_length: int | None = None,
        patch_length: int | None = None,
        pattern: str = "ss",
        d_model: int = 64,
        num_heads: int = 4,
        dropout: float = 0.0,
        max_epochs: int = 30,
        windows_per_epoch: int = 4096,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        patience: int = 5,
        validation_windows: int = 1,
        conformal: bool = False,
        calibration_share: float = 0.2,
        random_state: Any = None,
        progress: bool | Callable[[dict[str, float]], object] = False,
    ) -> None:
        self.horizon = horizon
        self.freq = freq
        self.season_length = season_length
        self.static = static
        self.past = past
        self.future = future
        self.quantiles = quantiles
        self.context_length = context_length
        self.patch_length = patch_length
        self.pattern = pattern
        self.d_model = d_model
        self.num_heads = num_heads
        self.dropout = dropout
        self.max_epochs = max_epochs
        self.windows_per_epoch = windows_per_epoch
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.patience = patience
        self.validation_windows = validation_windows
        self.conformal = conformal
        self.calibration_share = calibration_share
        self.random_state = random_state
        self.progress = progress

    def fit(self, X: Any, y: None = None) -> XLSTMForecaster:
        """Learn from series, and keep their ends as the state.

        Args:
            X: A frame or arrays, as above.
            y: Not used; what is to be forecast is in `X`.

        Raises:
            ValueError: The input cannot be read, or is too short or constant for what is asked.
        """
        return self._fit(*self._read(X))

    def predict(self, X: Any = None, future: pd.DataFrame | None = None) -> Any:
        """Forecast the median of the next `horizon` steps.

        Args:
            X: Histories to forecast, of series known or new. `None`: the state, after `fit` and all
                `update`s.
            future: Long frame of the covariates known ahead, for the next `horizon` steps of every
                series; what lies further ahead is not looked at.

        Returns:
            A frame `unique_id, ds, y_hat`; or, for arrays, (horizon,) or (series, horizon).

        Raises:
            ValueError: The input cannot be read, has another frequency, or lacks something.
        """
        panel, quantiles, layout = self._forecast(X, future)
        median = between(quantiles, self.quantiles, (0.5,))
        return as_given(panel, median, ("y_hat",), layout)

    def predict_quantiles(
        self,
        X: Any = None,
        future: pd.DataFrame | None = None,
        *,
        quantiles: Sequence[float] | None = None,
    ) -> Any:
        """Forecast quantiles of the next `horizon` steps; they never cross.

        Args:
            X: As for `predict`.
            future: As for `predict`.
            quantiles: Which, between the smallest and the largest learned. `None`: those learned.

        Returns:
            A frame `unique_id, ds` and a column for each, such as `q0.1`; or, for arrays, (horizon,
            Q) or (series, horizon, Q).

        Raises:
            ValueError: As `predict`; or a quantile lies outside of those learned.
        """
        panel, learned, layout = self._forecast(X, future)
        wanted = self.quantiles if quantiles is None else quantiles
        found = between(learned, self.quantiles, wanted)
        return as_given(panel, found, tuple(f"q{level:g}" for level in wanted), layout)

    def update(self, X_new: Any) -> XLSTMForecaster:
        """Move the state on by new observations, without a refit.

        Afterwards forecasts are those from the whole history.

        Args:
            X_new: New rows of some or all series, each after the end of its series and on its grid,
                missing ones being missing values; or arrays in the form of those in `fit`, one or
                more new steps for every series.

        Raises:
            ValueError: A series was not in `fit`, or a row does not follow; nothing is changed.
        """
        check_is_fitted(self)
        panel = advanced(self.history_, X_new, self._covariates(), self.layout_)
        self.history_ = panel.last(self.context_length_)
        return self

    def cross_validate(self, X: Any, windows: int = 3, step: int | None = None) -> CrossValidation:
        """Forecast from several origins in the past, by a copy fitted before the first of them.

        This forecaster stays as it is, fitted or not. Series that do not reach before the first
        origin are left out.

        Args:
            X: A frame or arrays, as for `fit`.
            windows: How many origins; the last leaves one horizon to the end.
            step: Steps from origin to origin. `None`: the horizon, so that no step counts twice.

        Returns:
            The forecasts beside the truth, and their scores beside the seasonal naive forecast's.

        Raises:
            ValueError: As `fit`, on what lies before the first origin.
        """
        return fit_and_backtest(type(self)(**self.get_params()), X, windows, step or self.horizon)

    def plot(
        self,
        ids: Sequence[object] | None = None,
        future: pd.DataFrame | None = None,
        *,
        steps: int | None = None,
    ) -> Figure:
        """Draw the end of the history of some series, with median and intervals ahead.

        Args:
            ids: Of the series. `None`: the first, at most 4.
            future: As for `predict`.
            steps: Of the history. `None`: four horizons, or what there is of them.

        Returns:
            A figure of matplotlib, with axes for each series.

        Raises:
            ValueError: As `predict`; or there is no such series.
        """
        from exlstm.forecast.plot import plot_forecast

        panel, quantiles, _ = self._forecast(None, future)
        ids = panel.ids[:4] if ids is None else ids
        steps = 4 * self.horizon if steps is None else steps
        return plot_forecast(panel, quantiles, tuple(self.quantiles), ids, steps)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a new folder with `estimator.json` and `model.safetensors`.

        Raises:
            ValueError: There is something of that name, or an id is neither text nor an integer.
        """
        check_is_fitted(self)
        save_fitted(self, folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> XLSTMForecaster:
        """Read what `save` wrote; the forecasts are the same. Nothing is unpickled.

        Raises:
            ValueError: The folder does not hold that, or is damaged.
        """
        return load_fitted(cls, folder)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "history_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.non_deterministic = self.random_state is None
        return tags

    def _covariates(self) -> Covariates:
        return Covariates(tuple(self.static), tuple(self.past), tuple(self.future))

    def _read(self, X: Any) -> tuple[Panel, Layout]:
        """Read what is to be fitted, after a check of what the constructor was told."""
        check_settings(self)
        return read(X, self._covariates(), self.freq)

    def _fit(self, panel: Panel, layout: Layout) -> XLSTMForecaster:
        covariates = self._covariates()
        training = Training(
            max_epochs=self.max_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            patience=self.patience,
        )
        longest = min(int(panel.lengths.max()), _LONGEST_DEFAULT_CONTEXT)
        context_length = longest if self.context_length is None else self.context_length
        if self.patch_length is not None and self.patch_length > context_length:
            raise ValueError(
                f"patch_length {self.patch_length} must not be above the {context_length} steps "
                "a forecast reads"
            )
        share = self.calibration_share if self.conformal else 0.0
        parts = split(panel, context_length, self.horizon, self.validation_windows, share)
        seen = [values[:end] for values, end in zip(panel.values, parts.trained, strict=True)]
        encoding = Encoding.fit(replace(panel, values=seen), covariates)
        windows = Windows(panel, encoding, covariates, context_length, self.horizon)
        season_length = self.season_length or season_of(panel.freq)
        config = ForecasterConfig(
            horizon=self.horizon,
            context_length=context_length,
            patch_length=self.patch_length or min(patch_of(season_length), context_length),
            num_past=len(covariates.past),
            num_future=len(covariates.future),
            num_static=encoding.num_static,
            quantiles=tuple(self.quantiles),
            pattern=self.pattern,
            d_model=self.d_model,
            num_heads=self.num_heads,
            dropout=self.dropout,
        )
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = XLSTMForecastModel(config)
            losses = learn(
                model,
                windows,
                parts,
                training,
                self.windows_per_epoch,
                seed=seed,
                progress=print_line if self.progress is True else self.progress or None,
            )
        wider = None
        if self.conformal:
            wider = calibrate(model, windows, parts.calibration, tuple(self.quantiles))
        self.model_ = model.requires_grad_(False)  # products are then rounded as after `load`
        self.encoding_, self.widenings_ = encoding, wider
        self.losses_, self.freq_ = losses, panel.freq
        self.layout_: Layout = layout
        self.context_length_ = context_length
        self.season_length_ = season_length
        self.history_ = panel.last(context_length)
        return self

    def _forecast(self, X: Any, future: pd.DataFrame | None) -> tuple[Panel, np.ndarray, Layout]:
        check_is_fitted(self)
        panel, layout = self.history_, self.layout_
        if X is not None:
            panel, layout = history_of(X, self._covariates(), self.history_)
            panel = panel.last(self.context_length_)
        ahead = known_ahead(panel, future, tuple(self.future), self.horizon)
        return panel, self._quantiles(panel, ahead), layout

    def _quantiles(self, panel: Panel, ahead: np.ndarray) -> np.ndarray:
        """Forecast what follows a panel: (series, horizon, Q).

        Args:
            panel: Histories.
            ahead: Covariates known ahead (series, horizon, F).
        """
        for id, values in zip(panel.ids, panel.values, strict=True):
            if np.isnan(values[-self.context_length_ :, 0]).all():
                raise ValueError(
                    f"series {id!r} has no value in its last {self.context_length_} steps, "
                    "which is what a forecast reads; leave it out"
                )
        past = panel.values[0].shape[1] - ahead.shape[2]
        empty = np.full((*ahead.shape[:2], past), np.nan)
        rows = np.concatenate([empty, ahead], 2)
        joined = [np.concatenate(pair) for pair in zip(panel.values, rows, strict=True)]
        windows = Windows(
            replace(panel, values=joined),
            self.encoding_,
            self._covariates(),
            self.context_length_,
            self.horizon,
        )
        origins = Origins(np.arange(len(panel.ids)), panel.lengths)
        return forecast(self.model_, windows, origins, self.widenings_)
