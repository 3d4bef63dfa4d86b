"""A classifier fitted on each kind of records."""

import pytest
from small_records import SMALL, events, waves

from exlstm.classify import XLSTMClassifier, records_from_frame


@pytest.fixture(scope="session")
def on_waves():
    X, y = waves()
    return XLSTMClassifier(**SMALL, num_networks=2, stride=2, early=True).fit(X, y)


@pytest.fixture(scope="session")
def on_events():
    frame, y = events()
    records = list(records_from_frame(frame, code="code").values())
    weights = {0: 1.0, 1: 2.0}
    return XLSTMClassifier(
        **(SMALL | {"max_epochs": 12}), class_weight=weights, calibrate=True
    ).fit(records, y)
