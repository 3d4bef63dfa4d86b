"""The forecasting example runs, and beats the seasonal naive forecast."""

import importlib.util
from pathlib import Path

PATH = Path(__file__).parents[2] / "examples" / "forecasting.py"


def test_it_runs_and_beats_the_week_before(tmp_path):
    spec = importlib.util.spec_from_file_location("forecasting_example", PATH)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    scores = example.main(tmp_path, shops=4, days=200, max_epochs=5)
    whole = scores[scores["origin"] == "all"].set_index("forecaster")
    assert whole.loc["xlstm", "mase"] < whole.loc["seasonal naive", "mase"]
    assert whole.loc["xlstm", "wql"] < whole.loc["seasonal naive", "wql"]
    assert {path.name for path in tmp_path.iterdir()} == {"sales.png", "forecaster"}
