"""The guard against spikes: it says which steps are not applied."""

from __future__ import annotations

import math
import statistics
from typing import Any

WINDOW = 64
"""Applied steps the guard remembers; until there are so many it skips only what is not finite."""


class SpikeGuard:
    """Finds the steps whose gradient norm is above `factor` times the median of the last ones.

    The norm before clipping is judged, not the loss. It is what the update is made of, so a bad
    batch shows in it before it has done harm, where the loss tells of a bad update only after
    it. And it is of the gradient that all processes share.

    Attributes:
        memory: All it remembers, as JSON can hold it: the norms of the last applied steps, and
            how many steps in a row were skipped.

    Example:
        >>> guard = SpikeGuard(factor=10.0)
        >>> for _ in range(WINDOW):
        ...     assert guard.judge(loss=3.0, norm=0.5) is None
        >>> guard.judge(loss=3.0, norm=6.0)
        'the gradient norm is 6, the median of the last 64 is 0.5'
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.memory: dict[str, Any] = {"norms": [], "skipped_in_a_row": 0}

    @property
    def skipped_in_a_row(self) -> int:
        """The number of steps skipped since the last one applied."""
        return self.memory["skipped_in_a_row"]

    def judge(self, loss: float, norm: float) -> str | None:
        """Return why a step must not be applied, or `None` where it may; remember which."""
        reason = not_finite(loss, norm) or self._spike(norm)
        if reason is None:
            self.memory["norms"] = [*self.memory["norms"], norm][-WINDOW:]
            self.memory["skipped_in_a_row"] = 0
        else:
            self.memory["skipped_in_a_row"] += 1
        return reason

    def _spike(self, norm: float) -> str | None:
        norms = self.memory["norms"]
        if len(norms) < WINDOW or norm <= self.factor * (median := statistics.median(norms)):
            return None
        return f"the gradient norm is {norm:.4g}, the median of the last {WINDOW} is {median:.4g}"


def not_finite(loss: float, norm: float) -> str | None:
    """Return what of a step is not finite, or `None`.

    Example:
        >>> not_finite(loss=3.0, norm=math.inf)
        'the gradient norm is inf'
    """
    for name, value in (("loss", loss), ("gradient norm", norm)):
        if not math.isfinite(value):
            return f"the {name} is {value}"
    return None
