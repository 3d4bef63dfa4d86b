"""Windows of a panel: what a forecast reads, and what then came."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from exlstm.forecast.encoding import Encoding
from exlstm.forecast.panel import Panel
from exlstm.forecast.rows import Covariates


class Batch(NamedTuple):
    """B windows as the model takes them, and how their targets were standardised.

    Attributes:
        target: (B, C), standardised by its own mean and deviation; NaN is missing.
        truth: (B, horizon), by the same; NaN is not known.
        past: (B, C, P), standardised by what was trained on, or None.
        future: (B, C + horizon, F), by the same, or None.
        static: (B, S), or None.
        shift: Mean of each target (B,), float64.
        scale: Its standard deviation; 0 where all that is known is one number.
    """

    target: Tensor
    truth: Tensor
    past: Tensor | None
    future: Tensor | None
    static: Tensor | None
    shift: np.ndarray
    scale: np.ndarray

    def covariates(self) -> dict[str, Any]:
        """What the model is told besides the target."""
        return {"past": self.past, "future": self.future, "static": self.static}

    def in_units(self, quantiles: Tensor) -> np.ndarray:
        """Return standardised forecasts (B, horizon, Q) in the units of the series, in float64."""
        scale = self.scale[:, None, None]
        return self.shift[:, None, None] + scale * quantiles.double().numpy()


class Windows:
    """Cuts windows out of a panel by series and origin, the step that is forecast first.

    A window's target is standardised in float64 by what it reads and nothing else, so that series
    of any units are forecast with the digits they have.
    """

    def __init__(
        self,
        panel: Panel,
        encoding: Encoding,
        covariates: Covariates,
        context_length: int,
        horizon: int,
    ) -> None:
        self._values = np.concatenate(panel.values)
        lengths = panel.lengths
        self._ends = np.cumsum(lengths)
        self._begins = self._ends - lengths
        self._static = encoding.describe(panel, covariates)
        self._shift, self._scale = np.array(encoding.shift), np.array(encoding.scale)
        self._num_past, self._num_future = len(covariates.past), len(covariates.future)
        self._context_length, self._horizon = context_length, horizon

    def batch(self, series: np.ndarray, origins: np.ndarray) -> Batch:
        """Return windows; what lies before or behind a series is missing.

        Args:
            series: Places in the panel (B,).
            origins: The first steps that are forecast (B,).
        """
        context = self._context_length
        steps = np.arange(-context, self._horizon)
        at = (self._begins[series] + origins)[:, None] + steps
        there = (at >= self._begins[series, None]) & (at < self._ends[series, None])
        values = self._values[np.where(there, at, 0)]
        values[~there] = np.nan
        target = values[:, :context, 0]
        shift, scale = standardisation(target)
        y = (values[..., 0] - shift[:, None]) / np.where(scale > 0, scale, 1.0)[:, None]
        with_time = (values[..., 1:] - self._shift) / self._scale
        past = future = None
        if self._num_past:
            past = _tensor(with_time[:, :context, : self._num_past])
        if self._num_future:
            future = _tensor(with_time[..., self._num_past :])
        static = _tensor(self._static[series]) if self._static.shape[1] else None
        y = _tensor(y)
        return Batch(y[:, :context], y[:, context:], past, future, static, shift, scale)


def standardisation(target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of what is known in each row (B, C): a deviation of 0 where all is equal.

    Example:
        >>> standardisation(np.array([[1.0, np.nan, 3.0], [0.1, 0.1, 0.1]]))
        (array([2. , 0.1]), array([1., 0.]))
    """
    known = ~np.isnan(target)
    count = np.maximum(known.sum(1), 1)
    low = np.where(known, target, np.inf).min(1)
    varied = low < np.where(known, target, -np.inf).max(1)
    shift = np.where(known, target, 0.0).sum(1) / count
    rest = np.where(known, target - shift[:, None], 0.0)
    scale = np.sqrt(np.square(rest).sum(1) / count)
    return np.where(varied, shift, low), np.where(varied, scale, 0.0)


def varied_before(target: np.ndarray, context_length: int) -> np.ndarray:
    """Say of each origin 0 ... n whether the context before it holds two different numbers.

    Example:
        >>> varied_before(np.array([1.0, 1.0, np.nan, 2.0, 2.0]), 3).tolist()
        [False, False, False, False, True, False]
    """
    known = np.flatnonzero(~np.isnan(target))
    differs = np.flatnonzero(np.diff(target[known]))
    # Of the latest pair of neighbours that differ: where its first one is, known from its second.
    first_of_pair = np.full(len(target) + 1, -1)
    first_of_pair[known[differs + 1] + 1] = known[differs]
    latest = np.maximum.accumulate(first_of_pair)
    return latest >= np.maximum(np.arange(len(target) + 1) - context_length, 0)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
