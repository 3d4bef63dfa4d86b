"""The forecaster as estimator and predictor of GluonTS, as benchmarks such as GIFT-Eval want it."""
# pyright: basic, reportMissingImports=false

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone

try:
    from gluonts.model.estimator import Estimator
    from gluonts.model.forecast import QuantileForecast
    from gluonts.model.predictor import RepresentablePredictor
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"exlstm.adapters.gluonts needs {error.name}: pip install gluonts"
    ) from None

from exlstm.forecast import XLSTMForecaster
from exlstm.forecast.grid import season_of

_AT_ONCE = 256
"""Series that are forecast in one batch."""


class ExlstmEstimator(Estimator):
    """Trains a forecaster on a dataset of GluonTS.

    Targets are all it reads: dynamic and static features are not looked at.

    Args:
        forecaster: What to train; it stays as it is. Where its `season_length` is `None`, it
            becomes that of the dataset's frequency.

    Example:
        >>> import numpy as np
        >>> import pandas as pd
        >>> item = {"start": pd.Period("2020-01", "M"), "target": np.sin(np.arange(60.0))}
        >>> forecaster = XLSTMForecaster(horizon=6, d_model=16, max_epochs=1, random_state=0)
        >>> predictor = ExlstmEstimator(forecaster).train([item])
        >>> next(predictor.predict([item])).quantile(0.9).shape
        (6,)
    """

    def __init__(self, forecaster: XLSTMForecaster) -> None:
        super().__init__()
        self.forecaster = forecaster
        self.prediction_length = forecaster.horizon

    def train(
        self, training_data: Iterable[dict[str, Any]], validation_data: object = None, **_: Any
    ) -> ExlstmPredictor:
        """Train on the targets; what is kept apart for early stopping are their ends.

        Raises:
            ValueError: The dataset is empty, or a target is not one series of numbers.
        """
        items = list(training_data)
        if not items:
            raise ValueError("training_data has no series")
        forecaster: Any = clone(self.forecaster)
        if forecaster.season_length is None:
            forecaster.set_params(season_length=season_of(items[0]["start"].freq.freqstr))
        return ExlstmPredictor(forecaster.fit([target_of(item) for item in items]))


class ExlstmPredictor(RepresentablePredictor):
    """A fitted forecaster as a predictor: quantiles of what follows each series.

    Args:
        forecaster: A fitted one.
    """

    def __init__(self, forecaster: XLSTMForecaster) -> None:
        super().__init__(prediction_length=forecaster.horizon)
        self.forecaster = forecaster

    def predict(self, dataset: Iterable[dict[str, Any]], **_: Any) -> Iterator[QuantileForecast]:
        """Forecast each series of a dataset, in its order.

        Raises:
            ValueError: A target is not one series of numbers, or its end has no value.
        """
        items = iter(dataset)
        levels = list(self.forecaster.quantiles)
        while some := list(islice(items, _AT_ONCE)):
            targets = [target_of(item) for item in some]
            found = self.forecaster.predict_quantiles(targets)
            for item, target, quantiles in zip(some, targets, found, strict=True):
                yield QuantileForecast(
                    forecast_arrays=quantiles.T,
                    start_date=item["start"] + len(target),
                    forecast_keys=[str(level) for level in levels],
                    item_id=item.get("item_id"),
                )

    def serialize(self, path: Path) -> None:
        """Write what `Predictor.deserialize` reads."""
        super(RepresentablePredictor, self).serialize(path)
        self.forecaster.save(path / "forecaster")

    @classmethod
    def deserialize(cls, path: Path, **_: Any) -> ExlstmPredictor:
        """Read what `serialize` wrote."""
        return cls(XLSTMForecaster.load(path / "forecaster"))


def target_of(item: dict[str, Any]) -> np.ndarray:
    """The target of an item.

    Raises:
        ValueError: It is not one series.
    """
    target = np.asarray(item["target"], dtype=np.float64)
    if target.ndim != 1:
        raise ValueError(
            f"target of {item.get('item_id')!r} has shape {target.shape}: give one series (time,)"
        )
    return target
