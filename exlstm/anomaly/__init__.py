"""Anomalies in series of numbers, step by step; the detector needs `pip install 'exlstm[ts]'`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exlstm.anomaly.scores import average_precision as average_precision
from exlstm.anomaly.scores import best_f1 as best_f1
from exlstm.anomaly.scores import vus_pr as vus_pr

if TYPE_CHECKING:
    from exlstm.anomaly.detector import XLSTMAnomalyDetector

__all__ = ["XLSTMAnomalyDetector", "average_precision", "best_f1", "vus_pr"]


def __getattr__(name: str) -> object:
    """Import the detector when it is asked for: the command line starts without scikit-learn."""
    if name != "XLSTMAnomalyDetector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from exlstm.anomaly.detector import XLSTMAnomalyDetector
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"exlstm.anomaly needs {error.name}: pip install 'exlstm[ts]'", name=error.name
        ) from None
    return XLSTMAnomalyDetector
