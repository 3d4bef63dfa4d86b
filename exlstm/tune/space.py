"""What is tried: a range or a choice for each name, each in one string."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import optuna

Value = int | float | str | bool


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both possible; whole ones where both are.

    Attributes:
        low: The smallest.
        high: The largest.
        step: Between whole numbers.
        log: Whether each factor is as likely as any other, in place of each difference.

    Raises:
        ValueError: The numbers are not as above.
    """

    low: int | float
    high: int | float
    step: int = 1
    log: bool = False

    def __post_init__(self) -> None:
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"a range goes from a number to a larger one, not {self}")
        if self.log and self.low <= 0:
            raise ValueError(f"a range by factors begins above 0, not at {self.low}")
        if self.step < 1 or (self.step > 1 and (not whole or self.log)):
            raise ValueError(f"steps are between whole numbers, not by factors: {self}")
        if self.step > 1 and (self.high - self.low) % self.step:
            raise ValueError(f"steps of {self.step} do not lead from {self.low} to {self.high}")

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        """Let Optuna choose one."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, step=self.step, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def __str__(self) -> str:
        step = f"/{self.step}" if self.step != 1 else ""
        return f"{'log:' if self.log else ''}{self.low}..{self.high}{step}"


@dataclass(frozen=True)
class Choice:
    """One of several values.

    Raises:
        ValueError: There are fewer than two, or one is there twice.
    """

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if len(self.values) < 2 or len(set(map(str, self.values))) < len(self.values):
            raise ValueError(f"a choice needs two or more different values, not {str(self)!r}")

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        """Let Optuna choose one."""
        chosen = trial.suggest_categorical(name, self.values)
        assert chosen is not None
        return chosen

    def __str__(self) -> str:
        return ",".join(map(str, self.values))


Space = Mapping[str, Range | Choice]


def parse_space(texts: Sequence[str]) -> dict[str, Range | Choice]:
    """The space that a command line gives.

    Args:
        texts: `name=low..high` for numbers between two, whole ones where both are;
            `name=low..high/step` for every so manieth of them; `name=log:low..high` where factors
            count; `name=a,b,c` for one of several.

    Raises:
        ValueError: A text is not as above, or a name is there twice.

    Example:
        >>> texts = ["learning_rate=log:1e-4..1e-2", "pattern=ms,mmms", "d_model=32..128/32"]
        >>> space = parse_space(texts)
        >>> space["learning_rate"], space["pattern"]
        (Range(low=0.0001, high=0.01, step=1, log=True), Choice(values=('ms', 'mmms')))
        >>> print(space["d_model"])
        32..128/32
    """
    space: dict[str, Range | Choice] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name or not rest:
            raise ValueError(
                f"{text!r} is no space: write name=low..high, name=log:low..high or name=a,b,c"
            )
        if name in space:
            raise ValueError(f"{name} is to be tried twice: {space[name]} and {rest}")
        try:
            space[name] = _range(rest) if ".." in rest else _choice(rest)
        except ValueError as error:
            raise ValueError(f"{text!r}: {error}") from None
    return space


def _range(text: str) -> Range:
    found = re.fullmatch(r"(log:)?(.+?)\.\.(.+?)(?:/(\d+))?", text)
    ends = [_value(end) for end in found.group(2, 3)] if found else []
    if found is None or not all(type(end) in (int, float) for end in ends):
        raise ValueError("a range is low..high, low..high/step or log:low..high, of numbers")
    low, high = (end for end in ends if isinstance(end, int | float))
    return Range(low, high, int(found[4] or 1), found[1] is not None)


def _choice(text: str) -> Choice:
    return Choice(tuple(_value(part.strip()) for part in text.split(",")))


def _value(text: str) -> Value:
    if text in ("true", "True", "false", "False"):
        return text in ("true", "True")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
