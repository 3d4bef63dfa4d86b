"""The example of anomalies in a stream: both are found, and little else is."""

import importlib.util
from pathlib import Path

import pytest

from exlstm.anomaly import XLSTMAnomalyDetector

PATH = Path(__file__).parents[2] / "examples" / "anomaly.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("anomaly_example", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_finds_what_goes_wrong(example, tmp_path):
    _, alarms = example.watch(12, tmp_path / "out")
    for steps in (example.STUCK, example.DRIFT):
        assert any(steps.start <= step < steps.stop for step in alarms)
    before = [step for step in alarms if step < example.STUCK.start]
    assert len(before) < 0.1 * example.DAY * 2
    assert (tmp_path / "out" / "fortnight.png").stat().st_size > 10_000
    XLSTMAnomalyDetector.load(tmp_path / "out")


def test_the_example_is_short():
    assert len(PATH.read_text().splitlines()) < 100
