"""The learning rate and the batch size: functions of the step, so a resume restores nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Schedule = Literal["cosine", "wsd", "exponential"]


def learning_rate_factor(
    step: int,
    *,
    steps: int,
    warmup: int,
    min_ratio: float,
    schedule: Schedule = "cosine",
    decay_steps: int = 1,
) -> float:
    r"""Return the share of the peak learning rate at `step`, counted from 0.

    Linear up to 1 over the first $w$ steps. Then, with $r$ the `min_ratio`, $S$ all steps and
    $d(s) = \min(1, (S - s) / D)$, which falls from 1 to 0 over the last $D$ of them:

    - `cosine`: $r + (1 - r) (1 + \cos(\pi p)) / 2$, where $p = (s - w) / (S - w)$;
    - `wsd` (warm-up, stable, decay): $r + (1 - r) \, d(s)$;
    - `exponential`, of the xLSTM 7B: $r^e \, d(s)$, where $e = (s - w) / (S - D - w)$ is at most
      1: an exponential down to $r$, then a linear cool-down to 0.

    Example:
        >>> [learning_rate_factor(s, steps=6, warmup=2, min_ratio=0.0) for s in (0, 1, 2, 4, 6)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "cosine":
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
    decay = min(1.0, max(0, steps - step) / decay_steps)
    if schedule == "wsd":
        return min_ratio + (1 - min_ratio) * decay
    progress = min(1.0, (step - warmup) / max(1, steps - decay_steps - warmup))
    return min_ratio**progress * decay


@dataclass(frozen=True)
class BatchSizes:
    """The batch of every step: `first` samples, doubled every `stage` steps, `doublings` times.

    Example:
        >>> sizes = BatchSizes(first=4, stage=2, doublings=2)
        >>> [sizes.at(step) for step in range(6)]
        [4, 4, 8, 8, 16, 16]
        >>> [sizes.before(step) for step in range(6)]
        [0, 4, 8, 16, 24, 40]
    """

    first: int
    stage: int = 1
    doublings: int = 0

    def at(self, step: int) -> int:
        """Return the number of samples of `step`, counted from 0."""
        return self.first << self._doubled(step)

    def before(self, step: int) -> int:
        """Return the number of samples of all the steps before it."""
        doubled = self._doubled(step)
        earlier_stages = self.first * self.stage * ((1 << doubled) - 1)
        return earlier_stages + (step - doubled * self.stage) * self.at(step)

    def _doubled(self, step: int) -> int:
        return min(step // self.stage, self.doublings)
