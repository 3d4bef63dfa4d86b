"""What the constructor of the estimator was told: checks, and what is taken where it was not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from exlstm.forecast.conformal import check_symmetric
from exlstm.forecast.inputs import check_columns
from exlstm.forecast.results import between

if TYPE_CHECKING:
    from exlstm.forecast.forecaster import XLSTMForecaster


def check_settings(forecaster: XLSTMForecaster) -> None:
    """Check the parameters, as far as `ForecasterConfig` and `Training` do not.

    Raises:
        ValueError: One is not possible.
    """
    check_columns(forecaster.static, forecaster.past, forecaster.future)
    least = {"horizon": 1, "windows_per_epoch": 1, "validation_windows": 0}
    optional = dict.fromkeys(("context_length", "season_length", "patch_length"), 1)
    for name, lowest in (least | optional).items():
        value = getattr(forecaster, name)
        if value is None and name in optional:
            continue
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < lowest:
            raise ValueError(f"{name} must be a whole number of at least {lowest}, got {value!r}")
    between(np.asarray(forecaster.quantiles), forecaster.quantiles, (0.5,))  # a median can be found
    if forecaster.conformal:
        check_symmetric(forecaster.quantiles)
        if not 0 < forecaster.calibration_share < 1:
            raise ValueError(
                f"calibration_share must lie between 0 and 1, got {forecaster.calibration_share}"
            )


def patch_of(season_length: int) -> int:
    """Return the steps of a patch: seasons of about 16 together, or 16 where one is above 32.

    Example:
        >>> [patch_of(season) for season in (1, 4, 7, 12, 24, 52)]
        [16, 16, 14, 12, 24, 16]
    """
    return 16 if season_length > 32 else season_length * max(1, round(16 / season_length))


def print_line(line: dict[str, float]) -> None:
    """Print what an epoch of training gave, to stderr."""
    numbers = "  ".join(f"{name} {value:.4f}" for name, value in line.items() if name != "epoch")
    print(f"epoch {line['epoch']:>3}  {numbers}", file=sys.stderr, flush=True)
