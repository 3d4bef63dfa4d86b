"""`exlstm anomalies`, and the picture."""

import numpy as np
import pandas as pd
import pytest

from exlstm.anomaly import XLSTMAnomalyDetector
from exlstm.anomaly.command import AnomaliesArguments, anomalies_command
from exlstm.anomaly.plot import plot_scores


def frame(steps=120):
    generator = np.random.default_rng(0)
    times = pd.date_range("2026-01-01", periods=steps, freq="h")
    flow = np.sin(np.arange(steps) / 4) + 0.1 * generator.normal(size=steps)
    flow[100] = 9.0
    flow[7] = np.nan
    return pd.DataFrame({"time": times, "flow": flow, "heat": flow**2, "note": "x"})


def run(path, out, **changes):
    settings = {"columns": ("flow",), "epochs": 1, "half_life": 0.0} | changes
    anomalies_command(AnomaliesArguments(data=path, out=out, **settings))


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "data.csv"
    frame().to_csv(path, index=False)
    return path


def test_scores_a_picture_and_the_model(csv, tmp_path, capsys):
    run(csv, tmp_path / "out")
    assert "12 of 120 steps of flow are above" in (said := capsys.readouterr().out)
    assert "is at 2026-01-05 04:00:00" in said
    out = tmp_path / "out"
    names = ["model", "scores.csv", "scores.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    table = pd.read_csv(out / "scores.csv", index_col="time", parse_dates=True)
    assert table["score"].idxmax() == pd.Timestamp("2026-01-05 04:00:00")
    assert table["anomaly"].sum() == 12
    loaded = XLSTMAnomalyDetector.load(out / "model")
    np.testing.assert_array_equal(table["score"], loaded.decision_function(frame()[["flow"]]))
    with pytest.raises(ValueError, match="out exists already: give the name of a new folder"):
        run(csv, out)


def test_it_learns_from_another_file(csv, tmp_path):
    quiet = tmp_path / "quiet.csv"
    frame()[:90].to_csv(quiet, index=False)
    run(csv, tmp_path / "out", fit=quiet)
    loaded = XLSTMAnomalyDetector.load(tmp_path / "out" / "model")
    assert loaded.decision_scores_.shape == (90,)


def test_all_columns_of_numbers_without_times(tmp_path, capsys):
    path = tmp_path / "data.csv"
    frame()[["flow", "heat"]].to_csv(path, index=False)
    run(path, tmp_path / "out", columns=())
    assert "of flow, heat are above" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "out" / "scores.csv")["step"].tolist() == list(range(120))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": ("flux",)}, "has no column 'flux'; it has time, flow, heat, note"),
        ({"time": "when"}, "has no column 'when'"),
        ({"time": "note"}, "column 'note' has rows that are no time"),
        ({"columns": ("note",)}, "column 'note' is str, not numbers"),
        ({"contamination": 2.0}, r"contamination must be in \(0, 0.5\], got 2.0"),
    ],
)
def test_refusals_leave_nothing(csv, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(csv, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_files_that_are_refused(tmp_path):
    path = tmp_path / "data.csv"
    frame()[::-1].to_csv(path, index=False)
    with pytest.raises(ValueError, match="not in the order of their 'time'"):
        run(path, tmp_path / "out")
    path.write_text("")
    with pytest.raises(ValueError, match="is no CSV file: No columns"):
        run(path, tmp_path / "out")
    path.write_text("a,b\nx,y\n")
    with pytest.raises(ValueError, match="has no column of numbers; it has a, b"):
        run(path, tmp_path / "out", columns=())


def test_the_picture_shows_channels_and_what_is_marked():
    x = np.random.default_rng(0).normal(size=(50, 10))
    scores = np.zeros(50)
    scores[[20, 21, 30]] = 2.0
    figure = plot_scores(x, scores, 1.0)
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == [*(f"channel {number}" for number in range(8)), "score"]
    assert figure.axes[0].get_title() == "8 of 10 channels"
    assert [len(axes.patches) for axes in figure.axes] == [2] * 9
    marked = figure.axes[3].lines[1].get_xydata()
    np.testing.assert_array_equal(marked, np.c_[[20, 21, 30], x[[20, 21, 30], 3]])
    with pytest.raises(ValueError, match="of one length, got 50, 49 and 50"):
        plot_scores(x, scores[:49], 1.0)
