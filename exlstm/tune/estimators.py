"""The scores of estimators' settings, each over folds: what was not fitted on decides.

After each fold the mean so far is reported, so that hopeless settings end early.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from exlstm.tune.space import Value
from exlstm.tune.study import Objective, Report

if TYPE_CHECKING:
    import pandas as pd

    from exlstm.anomaly import XLSTMAnomalyDetector
    from exlstm.classify import XLSTMClassifier
    from exlstm.forecast import XLSTMForecaster


def forecast_objective(forecaster: XLSTMForecaster, frame: pd.DataFrame, folds: int) -> Objective:
    """The scaled quantile loss of forecasts, each one horizon long, by fits on all before it.

    The last horizon of every series is not looked at: it is left to judge what was found.
    """

    def scores(forecaster: XLSTMForecaster) -> Iterator[float]:
        rows = frame.sort_values("ds", kind="stable").groupby("unique_id", sort=False)
        for fold in range(folds, 0, -1):
            history = rows.head(-fold * forecaster.horizon)
            table = forecaster.cross_validate(history, windows=1).scores
            ours = (table["origin"] == "all") & (table["forecaster"] == "xlstm")
            yield float(table.loc[ours, "sql"].item())

    return _mean_of(forecaster, scores)


def anomaly_objective(detector: XLSTMAnomalyDetector, series: Any) -> Objective:
    """The validation loss of a detector: how much the end of the series surprises it."""

    def scores(detector: XLSTMAnomalyDetector) -> Iterator[float]:
        yield min(line["validation"] for line in detector.fit(series).history_)

    return _mean_of(detector, scores)


def classifier_objective(
    classifier: XLSTMClassifier, X: np.ndarray, y: np.ndarray, folds: int
) -> Objective:
    """The log loss of a classifier on each of some stratified folds."""
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold

    def scores(classifier: XLSTMClassifier) -> Iterator[float]:
        for train, test in StratifiedKFold(folds, shuffle=True, random_state=0).split(X, y):
            classifier.fit(X[train], y[train])
            yield log_loss(y[test], classifier.predict_proba(X[test]), labels=classifier.classes_)

    return _mean_of(classifier, scores)


def _mean_of(estimator: Any, scores: Callable[[Any], Iterator[float]]) -> Objective:
    from sklearn.base import clone

    def objective(values: dict[str, Value], report: Report) -> float:
        found: list[float] = []
        trial: Any = clone(estimator)
        for score in scores(trial.set_params(**values)):
            found.append(score)
            report(len(found), float(np.mean(found)))
        return float(np.mean(found))

    return objective
