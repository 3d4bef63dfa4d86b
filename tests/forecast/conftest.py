"""A panel, and a forecaster fitted once."""

import pytest
from small_forecasts import SMALL, waves

from exlstm.forecast import XLSTMForecaster


@pytest.fixture(scope="session")
def frame():
    return waves()


@pytest.fixture(scope="session")
def fitted(frame):
    """Not to be changed: `copy.deepcopy` it first."""
    return XLSTMForecaster(**SMALL).fit(frame)
