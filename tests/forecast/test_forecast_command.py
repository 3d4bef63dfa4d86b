"""The verb `exlstm forecast`: files in, a folder out."""

import json

import numpy as np
import pandas as pd
import pytest
import tyro
from small_forecasts import HOUR, waves

from exlstm.forecast import XLSTMForecaster
from exlstm.forecast.command import ForecastArguments, forecast_command
from exlstm.forecast.table import Columns, read_table

QUICK = ["--d-model", "16", "--pattern", "s", "--max-epochs", "1", "--context-length", "24"]


def run(*argv):
    """As `exlstm forecast` does."""
    config = (tyro.conf.FlagCreatePairsOff,)
    forecast_command(tyro.cli(ForecastArguments, args=[*argv, *QUICK], config=config))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_long_file(folder, capsys):
    frame = waves(2, 80)
    frame.to_csv("data.csv", index=False)
    run("data.csv", "--horizon", "4", "--out", "out")
    names = {path.name for path in (folder / "out").iterdir()}
    assert names == {"forecasts.csv", "checked.csv", "scores.json", "forecast.png", "model"}
    found = pd.read_csv("out/forecasts.csv", parse_dates=["ds"])
    assert list(found.columns[:4]) == ["unique_id", "ds", "y_hat", "q0.1"]
    ends = frame.groupby("unique_id")["ds"].max()
    assert found.groupby("unique_id")["ds"].min().tolist() == (ends + HOUR).tolist()
    # What is scored is the last horizon; what is forecast comes from the model that is saved.
    checked = pd.read_csv("out/checked.csv", parse_dates=["ds"])
    assert checked.groupby("unique_id")["ds"].max().tolist() == ends.tolist()
    again = XLSTMForecaster.load("out/model").predict()
    assert np.allclose(again["y_hat"], found["y_hat"], rtol=1e-12)
    scores = json.loads((folder / "out/scores.json").read_text())
    assert set(scores) == {"xlstm", "seasonal naive"}
    assert scores["xlstm"]["mase"] > 0
    assert "seasonal naive" in capsys.readouterr().out
    with pytest.raises(ValueError, match="out exists already"):
        run("data.csv", "--horizon", "4", "--out", "out")


def test_a_wide_file_with_covariates(folder):
    frame = waves(2, 73)
    wide = frame.pivot(index="ds", columns="unique_id", values="y").reset_index()[:73]
    wide["price"] = np.arange(73.0)
    wide.rename(columns={"ds": "Date"}).to_csv("data.csv", index=False)
    ds = wide["ds"].iloc[-1] + HOUR * np.arange(1, 5)
    pd.DataFrame({"Date": ds, "price": 1.0}).to_csv("ahead.csv", index=False)
    run("data.csv", "--horizon", "4", "--future", "price", "--future-data", "ahead.csv")
    found = pd.read_csv("data-forecast/forecasts.csv")
    assert found["unique_id"].tolist() == ["s0"] * 4 + ["s1"] * 4
    with pytest.raises(ValueError, match="future: price ahead: give --future-data"):
        run("data.csv", "--horizon", "4", "--future", "price", "--out", "other")
    assert not (folder / "other").exists()


def test_one_series_of_some(folder):
    table = pd.DataFrame({"t": range(60), "a": np.sin(np.arange(60)), "b": 1.0, "note": "x"})
    table.to_csv("data.csv", index=False)
    run("data.csv", "--time-column", "t", "--value-columns", "a", "--horizon", "3", "--freq", "1")
    found = pd.read_csv("data-forecast/forecasts.csv")
    assert found["ds"].tolist() == [60, 61, 62]


def test_columns_by_other_names(folder):
    frame = waves(2, 20).rename(columns={"unique_id": "shop", "y": "sold"})
    frame["ds"] = frame["ds"].dt.strftime("%d/%m/%Y %H:%M")
    frame.to_csv("data.csv", index=False)
    columns = Columns(id="shop", values=("sold",), time_format="%d/%m/%Y %H:%M")
    pd.testing.assert_frame_equal(
        read_table(folder / "data.csv", columns)[["unique_id", "ds", "y"]],
        waves(2, 20),
        check_dtype=False,
    )


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("", {}, "is no CSV"),
        ("a,b\n1,2\n", {}, "no column called ds, date, .* --time-column, one of a, b"),
        ("ds,a\n1,2\n", {"values": ("z",)}, "has no column 'z', but ds, a"),
        ("ds,a\n03/04/2024,2\n", {}, "not as 2024-01-31 12:00, say how with --time-format"),
        ("ds,a\n1,x\n", {}, "column 'a' is not of numbers"),
        ("ds,a\n1,2\n", {"static": ("a",)}, "is wide, it has no static columns"),
        ("unique_id,ds,a\nx,1,2\n", {}, "is long, .* name one column with --value-columns"),
    ],
)
def test_files_that_are_not_understood(folder, text, columns, message):
    (folder / "data.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(folder / "data.csv", Columns(**columns))
