"""The fields of a foreign configuration: read, compared with the weights, or refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Fields:
    """A configuration as its file has it.

    Attributes:
        path: The file, for messages.
        values: What is in it.
        prefix: Where in it `values` stand, such as `"mlstm_block.mlstm."`.
    """

    path: Path
    values: Mapping[str, Any]
    prefix: str = ""

    def inner(self, name: str) -> Fields:
        """The fields under a name; none where there is no such name.

        Raises:
            ValueError: What stands there is no mapping.
        """
        values = self.values.get(name, {})
        if not isinstance(values, Mapping):
            raise ValueError(f"{self.path}: {self.prefix}{name} is {values!r}, it must have fields")
        return Fields(self.path, values, f"{self.prefix}{name}.")

    def check(
        self, *, sizes: Mapping[str, Any], fixed: Mapping[str, Any], free: Collection[str]
    ) -> None:
        """Compare the fields that are there.

        Args:
            sizes: What the weights say.
            fixed: What exlstm's models have, and no other.
            free: Names of fields that do not change what the model computes.

        Raises:
            ValueError: A field is unknown, not as the weights are, or of a model that exlstm does
                not have; the message names it.
        """
        for name, value in self.values.items():
            where = f"{self.path}: {self.prefix}{name} is {value!r}"
            if name in sizes:
                if value is not None and not _equal(value, sizes[name]):
                    raise ValueError(f"{where}, but the weights have {sizes[name]!r}")
            elif name in fixed:
                if not _equal(value, fixed[name]):
                    raise ValueError(f"{where}, exlstm has {fixed[name]!r} only")
            elif name not in free:
                raise ValueError(f"{where}: this field is unknown, and may change the model")

    def number(self, name: str, default: float) -> float:
        """A finite number.

        Raises:
            ValueError: It is none.
        """
        value = self.values.get(name, default)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"{self.path}: {self.prefix}{name} is {value!r}, it must be a number")
        return number

    def multiple(self, name: str, default: int) -> int:
        """A positive integer.

        Raises:
            ValueError: It is none.
        """
        value = self.number(name, default)
        if value < 1 or value != int(value):
            raise ValueError(
                f"{self.path}: {self.prefix}{name} is {value!r}, it must be an integer above 0"
            )
        return int(value)

    def cap(self, name: str, default: float) -> float | None:
        """A soft cap; null is none.

        Raises:
            ValueError: It is no number above 0.
        """
        if self.values.get(name, default) is None:
            return None
        value = self.number(name, default)
        if value <= 0:
            raise ValueError(f"{self.path}: {self.prefix}{name} is {value!r}, it must be above 0")
        return value


def read_fields(path: Path) -> Fields | None:
    """The fields of a JSON or YAML file, `None` where there is no such file.

    Raises:
        ValueError: It cannot be read, or is no mapping.
    """
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else _yaml().safe_load(text)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    except _yaml().YAMLError as error:
        line = " ".join(str(error).split())
        raise ValueError(f"{path} is not YAML: {line}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold fields and their values")
    return Fields(path, values)


def config_text(name: str, values: Mapping[str, Any]) -> str:
    """The text of a configuration file, JSON or YAML by its name.

    Raises:
        ValueError: It is YAML, and PyYAML is not installed.
    """
    if name.endswith(".json"):
        return json.dumps(values, indent=2) + "\n"
    return _yaml().safe_dump(dict(values), sort_keys=False)


def _yaml() -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise ValueError("a config.yaml needs PyYAML: pip install 'exlstm[lm]'") from None
    return yaml


def _equal(value: Any, want: Any) -> bool:
    """Whether two values are the same; YAML takes the number `1e-6` for a string."""
    if isinstance(want, float) and isinstance(value, str):
        try:
            return float(value) == want
        except ValueError:
            return False
    return value == want and isinstance(value, bool) == isinstance(want, bool)
