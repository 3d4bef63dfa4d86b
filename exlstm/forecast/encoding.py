"""Covariates as the model reads them: standardised numbers, and categories as zeros and ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from exlstm.forecast.panel import Panel, some
from exlstm.forecast.rows import Covariates


@dataclass(frozen=True)
class Encoding:
    """Learned from what is trained on, and the same ever after.

    Attributes:
        shift: Mean of each covariate over time, past ones first (P + F,).
        scale: Their standard deviation; 1 where that is 0.
        static: Of each static column its categories, or None with the mean and the deviation.
    """

    shift: list[float]
    scale: list[float]
    static: list[dict[str, Any]]

    @classmethod
    def fit(cls, panel: Panel, covariates: Covariates) -> Encoding:
        """Learn from a panel.

        Raises:
            ValueError: A covariate has no value at all.
        """
        values = np.concatenate([one[:, 1:] for one in panel.values])
        names = (*covariates.past, *covariates.future)
        for name, column in zip(names, values.T, strict=True):
            if np.isnan(column).all():
                raise ValueError(f"{name} has no value in what is trained on")
        static = []
        for place in range(len(covariates.static)):
            column = [one[place] for one in panel.static]
            if all(isinstance(one, int | float) and not isinstance(one, bool) for one in column):
                mean, deviation = float(np.mean(column)), float(np.std(column))
                static.append({"mean": mean, "deviation": deviation or 1.0})
            else:
                static.append({"categories": sorted(set(column), key=str)})
        if not names:
            return cls([], [], static)
        deviation = np.nanstd(values, 0)
        scale = np.where(deviation > 0, deviation, 1.0)
        return cls(np.nanmean(values, 0).tolist(), scale.tolist(), static)

    @property
    def num_static(self) -> int:
        """Numbers that describe a series to the model."""
        return sum(len(one.get("categories", "1")) for one in self.static)

    def describe(self, panel: Panel, covariates: Covariates) -> np.ndarray:
        """Return the static covariates (series, S).

        Raises:
            ValueError: A category was not there in fit, or a number is none.
        """
        table = np.zeros((len(panel.ids), self.num_static))
        for row, values in enumerate(panel.static):
            at = 0
            for name, learned, value in zip(covariates.static, self.static, values, strict=True):
                if "categories" not in learned:
                    if isinstance(value, bool) or not isinstance(value, int | float):
                        raise ValueError(
                            f"series {panel.ids[row]!r}: {name} is {value!r}, in fit it was numbers"
                        )
                    table[row, at] = (value - learned["mean"]) / learned["deviation"]
                    at += 1
                    continue
                categories = learned["categories"]
                if value not in categories:
                    raise ValueError(
                        f"series {panel.ids[row]!r}: {name} {value!r} was not there in fit, "
                        f"which had {some(categories)}"
                    )
                table[row, at + categories.index(value)] = 1.0
                at += len(categories)
        return table
