"""The detector, with PyOD's attributes and scikit-learn's conventions for outliers."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from exlstm.anomaly.fitting import fit_network, surprises_of
from exlstm.anomaly.network import Carried, Method, SurpriseNetwork
from exlstm.anomaly.series import Array, as_series, exponential_average, names_of
from exlstm.estimators import Saved, Training, read, write
from exlstm.nn import XLSTMStack

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_STEPS = 20
"""Fewer are no series to learn from."""


class XLSTMAnomalyDetector(OutlierMixin, BaseEstimator):
    """Scores every step of a series by how much it surprises a small causal xLSTM.

    The surprise of a step is its negative log-likelihood, given the steps before it; or that of the
    last steps, given a code of a few numbers from which the network reconstructs them. See
    `SurpriseNetwork`. The score is the exponential average of the
    surprises up to the step; it begins at the median of those of the fitted series. No score looks
    into the future.

    From PyOD: `decision_function` (higher is more abnormal), `decision_scores_`, `threshold_`,
    `labels_` (1 is an anomaly), `contamination`. From scikit-learn: `predict` and `fit_predict`
    (-1 is an anomaly, +1 is none), `score_samples` (the negative of `decision_function`: lower is
    more abnormal), `offset_` (the negative of `threshold_`).

    Args:
        method: What surprises: the step given those before it, or the last steps given their code.
        span: Steps reconstructed; or the most steps ahead that are predicted, of 1, 2, 4 and so on:
            1 is the one-step likelihood. `None` is 256 for `"prediction"`, 64 for
            `"reconstruction"`; less where the series is short.
        half_life: Steps after which a surprise counts half in the score; 0 is the surprise alone.
            Long anomalies are found better with a long one, and found later.
        contamination: Share of the fitted series' steps beyond `threshold_`, in (0, 0.5].
        false_alarm_rate: Takes the threshold from this instead: so large a share of normal steps
            may be beyond it. It is a quantile of the scores of the last part of the fitted series,
            which the network has not learnt from, with the correction for their number of split
            conformal prediction. It holds as far as those steps are normal and like the ones to
            come. `None`: `contamination` decides.
        pattern: Blocks of the network, as in `XLSTMStack`.
        d_model: Its width.
        num_heads: Its heads.
        code_size: Numbers in the reconstruction's code.
        window: Steps of a training sample.
        max_epochs: Passes over 64 windows, or all there are, at most.
        batch_size: Windows a step.
        learning_rate: At its peak.
        validation_share: The last part of the series that decides which epoch is best.
        random_state: Makes a fit repeatable: an int, a `RandomState`, or `None`.

    Attributes:
        decision_scores_: (T,) of the fitted series.
        threshold_: A step is an anomaly if its score is above.
        labels_: (T,) of the fitted series: 1 is an anomaly, 0 is none.
        offset_: `-threshold_`.
        n_features_in_: Number of channels.
        feature_names_in_: Of the DataFrame's columns, where it was fitted on one.
        network_: The fitted network.
        history_: A line an epoch: losses of training and validation.

    Example:
        >>> x = np.sin(np.arange(400) / 5)
        >>> detector = XLSTMAnomalyDetector(d_model=16, max_epochs=2, half_life=0, random_state=0)
        >>> _ = detector.fit(x)
        >>> x[300] = 5.0
        >>> int(detector.decision_function(x).argmax())
        300
        >>> [detector.score_next(value) > detector.threshold_ for value in x[:300]][-1]
        False
        >>> detector.score_next(5.0) > detector.threshold_
        True
    """

    def __init__(
        self,
        *,
        method: str = "prediction",
        span: int | None = None,
        half_life: float = 8.0,
        contamination: float = 0.1,
        false_alarm_rate: float | None = None,
        pattern: str = "s",
        d_model: int = 32,
        num_heads: int = 4,
        code_size: int = 4,
        window: int = 512,
        max_epochs: int = 10,
        batch_size: int = 4,
        learning_rate: float = 0.03,
        validation_share: float = 0.2,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.method = method
        self.span = span
        self.half_life = half_life
        self.contamination = contamination
        self.false_alarm_rate = false_alarm_rate
        self.pattern = pattern
        self.d_model = d_model
        self.num_heads = num_heads
        self.code_size = code_size
        self.window = window
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_share = validation_share
        self.random_state = random_state

    def fit(self, X: Any, y: None = None) -> XLSTMAnomalyDetector:
        """Learn what is normal from one series; a few anomalies in it do little harm.

        Args:
            X: (T,) or (T, C), or a DataFrame of numbers; NaN is a missing value. At least 20 steps.
                A constant channel is learnt as such: what differs from it later is abnormal.
            y: Not used.

        Raises:
            ValueError: `X` is not as above, a channel of it has no value, or a parameter is not
                possible.
        """
        series = as_series(X)
        held_out = self._check(series)
        usual = {"prediction": 256, "reconstruction": 64}[self.method]
        longest = min(self.window, len(series) - held_out)
        self.span_ = min(usual, longest - 1) if self.span is None else self.span
        names = names_of(X)
        self.n_features_in_ = series.shape[1]
        if names is not None:
            self.feature_names_in_ = np.array(names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        self.center_ = np.nanmean(series, axis=0)
        scale = np.nanstd(series, axis=0)
        self.scale_ = np.where(scale > 1e-9 * np.abs(self.center_), scale, 1.0)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network_ = self._network()
            self.history_ = fit_network(
                self.network_, self._scaled(series), len(series) - held_out,
                window=self.window, training=self._training(), seed=seed,
            )  # fmt: skip
        surprises, _ = self._surprises(series, None)
        self.usual_surprise_ = float(np.nanmedian(surprises))
        self.decision_scores_ = self._average(surprises, self.usual_surprise_)
        self.threshold_ = self._threshold(self.decision_scores_, held_out)
        self._finish()
        return self

    def decision_function(self, X: Any) -> Array:
        """The score (T,) of each step of a series of its own; higher is more abnormal.

        A step with nothing observed moves no score. The score of a step depends on the steps up to
        it alone.

        Raises:
            ValueError: `X` is not as in `fit`, or has other channels.
        """
        check_is_fitted(self)
        surprises, _ = self._surprises(self._series(X), None)
        return self._average(surprises, self.usual_surprise_)

    def score_samples(self, X: Any) -> Array:
        """scikit-learn's scores: `-decision_function(X)`, lower is more abnormal."""
        return -self.decision_function(X)

    def predict(self, X: Any) -> NDArray[np.int64]:
        """scikit-learn's labels (T,): -1 where the score is above `threshold_`, else +1."""
        return np.where(self.decision_function(X) > self.threshold_, -1, 1)

    def fit_predict(self, X: Any, y: None = None, **kwargs: Any) -> NDArray[np.int64]:
        """`fit`, and the labels of the fitted series: -1 is an anomaly, +1 is none."""
        return np.where(self.fit(X, y, **kwargs).labels_ == 1, -1, 1)

    def start_stream(self, history: Any = None) -> XLSTMAnomalyDetector:
        """Begin a new stream for `score_next`, after the steps of `history` or at nothing.

        Raises:
            ValueError: `history` is not as in `fit`, or has other channels.
        """
        check_is_fitted(self)
        self._carried, self._last_score = None, self.usual_surprise_
        if history is not None:
            surprises, self._carried = self._surprises(self._series(history), None)
            self._last_score = float(self._average(surprises, self._last_score)[-1])
        return self

    def score_next(self, x: ArrayLike) -> float:
        """The score of the next step of the stream: what `decision_function` gives on the whole.

        Args:
            x: A number, or (C,); NaN is a missing value.

        Raises:
            ValueError: It has other channels than in `fit`.
        """
        check_is_fitted(self)
        step = self._series(np.atleast_1d(np.asarray(x, dtype=float))[None])
        surprises, self._carried = self._surprises(step, self._carried)
        self._last_score = float(self._average(surprises, self._last_score)[0])
        return self._last_score

    def plot(self, X: Any, *, index: Any = None) -> Figure:
        """Draw a series with the steps that `predict` marks, and the scores with the threshold.

        Args:
            X: As in `decision_function`.
            index: (T,) what stands along the axis, such as times. `None`: the index of a DataFrame,
                or the numbers of the steps.
        """
        from exlstm.anomaly.plot import plot_scores

        return plot_scores(
            as_series(X), self.decision_function(X), self.threshold_,
            names=names_of(X), index=getattr(X, "index", None) if index is None else index,
        )  # fmt: skip

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a new folder, which `load` reads; nothing in it is pickled. Streams are not kept.

        Raises:
            ValueError: There is something of that name.
            TypeError: `random_state` is no int.
        """
        check_is_fitted(self)
        fitted = {
            "n_features_in": self.n_features_in_,
            "span": self.span_,
            "feature_names_in": getattr(self, "feature_names_in_", np.array([])).tolist(),
            "usual_surprise": self.usual_surprise_,
            "threshold": self.threshold_,
            "history": self.history_,
        }
        tensors = {f"network.{name}": value for name, value in self.network_.state_dict().items()}
        for name in ("center_", "scale_", "decision_scores_"):
            tensors[name] = torch.from_numpy(getattr(self, name))
        write(folder, Saved(type(self).__name__, self.get_params(), fitted, tensors))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> XLSTMAnomalyDetector:
        """Read what `save` wrote; it scores to the bit as the one that was saved.

        Raises:
            ValueError: The folder holds no such detector, or is damaged.
        """
        saved = read(folder, cls.__name__)
        detector = cls(**saved.parameters)
        detector.n_features_in_ = saved.fitted["n_features_in"]
        detector.span_ = saved.fitted["span"]
        if saved.fitted["feature_names_in"]:
            names = saved.fitted["feature_names_in"]
            detector.feature_names_in_ = np.array(names, dtype=object)
        detector.usual_surprise_ = saved.fitted["usual_surprise"]
        detector.threshold_ = saved.fitted["threshold"]
        detector.history_ = saved.fitted["history"]
        for name in ("center_", "scale_", "decision_scores_"):
            setattr(detector, name, saved.tensors[name].numpy())
        detector.network_ = detector._network()
        detector.network_.load_state_dict(saved.part("network."))
        detector.network_.eval()
        detector._finish()
        return detector

    def _finish(self) -> None:
        self.labels_ = (self.decision_scores_ > self.threshold_).astype(np.int64)
        self.offset_ = -self.threshold_
        self.start_stream()

    def _check(self, series: Array) -> int:
        """Check parameters and series for `fit`; how many steps at its end are held out."""
        if self.method not in ("prediction", "reconstruction"):
            raise ValueError(
                f"method must be 'prediction' or 'reconstruction', got {self.method!r}"
            )
        if not 0 < self.contamination <= 0.5:
            raise ValueError(f"contamination must be in (0, 0.5], got {self.contamination}")
        if self.false_alarm_rate is not None and not 0 < self.false_alarm_rate < 1:
            raise ValueError(f"false_alarm_rate must be in (0, 1), got {self.false_alarm_rate}")
        if not self.half_life >= 0:
            raise ValueError(f"half_life must not be negative, got {self.half_life}")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share must be in (0, 1), got {self.validation_share}")
        if len(series) < MIN_STEPS:
            raise ValueError(f"X has {len(series)} steps, fit needs at least {MIN_STEPS}")
        missing = np.isnan(series).all(axis=0)
        if missing.any():
            raise ValueError(f"channel {int(missing.argmax())} of X has no value: all are missing")
        held_out = max(1, round(len(series) * self.validation_share))
        longest = min(self.window, len(series) - held_out)
        if self.span is not None and not 1 <= self.span < longest:
            raise ValueError(
                f"span must be from 1 to less than a training window's {longest} steps, "
                f"got {self.span}"
            )
        if self.false_alarm_rate is not None and _rank(self.false_alarm_rate, held_out) > held_out:
            raise ValueError(
                f"false_alarm_rate {self.false_alarm_rate} needs at least "
                f"{math.ceil(1 / self.false_alarm_rate - 1)} steps held out, there are {held_out}"
            )
        return held_out

    def _training(self) -> Training:
        return Training(
            max_epochs=self.max_epochs, batch_size=self.batch_size,
            learning_rate=self.learning_rate,
        )  # fmt: skip

    def _backbone(self) -> nn.Module:
        return XLSTMStack(self.d_model, self.pattern, num_heads=self.num_heads)

    def _network(self) -> SurpriseNetwork:
        return SurpriseNetwork(
            self._backbone(), d_model=self.d_model, num_channels=self.n_features_in_,
            method=cast(Method, self.method), span=self.span_, code_size=self.code_size,
        )  # fmt: skip

    def _series(self, X: Any) -> Array:
        """Read a series of as many channels as the fitted one had."""
        series, names = as_series(X), names_of(X)
        if series.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {series.shape[1]} channels, the detector was fitted on "
                f"{self.n_features_in_}"
            )
        fitted = getattr(self, "feature_names_in_", None)
        if names is not None and fitted is not None and names != fitted.tolist():
            raise ValueError(f"X has columns {names}, the detector was fitted on {fitted.tolist()}")
        return series

    def _scaled(self, series: Array) -> Tensor:
        return torch.from_numpy(((series - self.center_) / self.scale_).astype(np.float32))

    def _surprises(self, series: Array, carried: Carried | None) -> tuple[Array, Carried | None]:
        return surprises_of(self.network_, self._scaled(series), carried)

    def _average(self, surprises: Array, before: float) -> Array:
        return exponential_average(surprises, self.half_life, before)

    def _threshold(self, scores: Array, held_out: int) -> float:
        if self.false_alarm_rate is None:
            return float(np.quantile(scores, 1 - self.contamination))
        rank = _rank(self.false_alarm_rate, held_out)
        return float(np.sort(scores[-held_out:])[rank - 1])


def _rank(false_alarm_rate: float, num_scores: int) -> int:
    """Of the score that a new one, exchangeable with them, is above with at most this chance."""
    return math.ceil((num_scores + 1) * (1 - false_alarm_rate) - 1e-9)
