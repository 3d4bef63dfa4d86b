"""What a training run says while it runs: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shows steps, loss, speed and the time left.

    Args:
        steps: of the whole run.
        done: steps done before this process began.
        tokens_before: the tokens of all steps before one, to turn steps into a speed.
    """

    def __init__(self, steps: int, done: int, tokens_before: Callable[[int], int]) -> None:
        self._steps = steps
        self._done = done
        self._tokens_before = tokens_before
        self._loss = math.nan
        self._began = self._spoke = time.perf_counter()
        self._bar = None
        if sys.stdout.isatty():
            self._bar = tqdm(total=steps, initial=done, file=sys.stdout, dynamic_ncols=True)

    def step(self, step: int, loss: float) -> None:
        """Report a training step."""
        if math.isfinite(loss):  # that of a skipped step may not be
            self._loss = loss if math.isnan(self._loss) else 0.95 * self._loss + 0.05 * loss
        speed = self._speed(step)
        if self._bar is not None:
            self._bar.set_postfix_str(
                f"loss {self._loss:.3f}, {speed:,.0f} tokens/s", refresh=False
            )
            self._bar.update()
        elif step == self._done + 1 or time.perf_counter() - self._spoke > _SECONDS_BETWEEN_LINES:
            left = (self._tokens_before(self._steps) - self._tokens_before(step)) / speed
            self.say(
                f"step {step:,}/{self._steps:,}  loss {self._loss:.3f}  "
                f"{speed:,.0f} tokens/s  {duration(left)} left"
            )

    def evaluation(self, step: int, loss: float, bits_per_byte: float) -> None:
        """Report an evaluation."""
        self.say(
            f"step {step:,}/{self._steps:,}  validation loss {loss:.3f}  "
            f"{bits_per_byte:.3f} bits per byte"
        )

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        self._spoke = time.perf_counter()
        if self._bar is None:
            print(line, flush=True)
        else:
            self._bar.write(line, file=sys.stdout)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def _speed(self, step: int) -> float:
        tokens = self._tokens_before(step) - self._tokens_before(self._done)
        return tokens / (time.perf_counter() - self._began)


def duration(seconds: float) -> str:
    """Return seconds as people write them.

    Example:
        >>> duration(59.7), duration(3725)
        ('1:00', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
