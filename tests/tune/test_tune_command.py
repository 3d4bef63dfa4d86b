"""`exlstm tune` from end to end, with runs of a few steps."""

import json

import numpy as np
import pandas as pd
import pytest

from exlstm.cli import main
from exlstm.train.arguments import TrainArguments
from exlstm.tune.command import read_rows
from exlstm.tune.language import training_objective

SIZES = (
    "pattern=s d-model=16 num-heads=2 context=16 batch-size=2 steps=4 eval-every=2 "
    "eval-windows=2 threads=1"
)


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("".join(f"line {n}: {n * n}\n" for n in range(400)))
    return file


def flags(tmp_path, text, *more):
    sizes = [f"--{size}" for size in SIZES.split()]
    return ["tune", f"--out={tmp_path / 'study'}", *more, "train", f"--data={text}", *sizes]


def test_a_language_models_learning_rate_is_found(tmp_path, text, capfd):
    more = ["--try", "learning-rate=1e-4,1e-2", "--trials=2"]
    assert main(flags(tmp_path, text, *more)) == 0
    out = capfd.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out] == ["trial 0", "trial 1", "best"]
    best = json.loads((tmp_path / "study" / "best.json").read_text())
    runs = list((tmp_path / "study" / "runs").iterdir())
    assert {run.name for run in runs} <= {"learning_rate=0.0001", "learning_rate=0.01"}
    last = [json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]) for run in runs]
    assert best["score"] == min(line["validation_loss"] for line in last)
    # Once more there is nothing to do.
    assert main(flags(tmp_path, text, *more)) == 0
    assert [line.split(":")[0] for line in capfd.readouterr().out.splitlines()] == ["best"]


def test_a_run_that_is_stopped_early_ends_and_can_go_on(tmp_path, text):
    class StopError(Exception):
        pass

    base = TrainArguments(
        out=tmp_path, data=str(text), pattern="s", d_model=16, num_heads=2, context=16,
        batch_size=2, steps=6000, eval_every=2, eval_windows=2, save_every=6000, threads=1,
    )  # fmt: skip
    objective = training_objective(base, tmp_path / "runs")
    reported = []

    def report(step, loss):
        reported.append((step, loss))
        if step >= 4:
            raise StopError

    with pytest.raises(StopError):
        objective({"learning_rate": 1e-3}, report)
    assert [step for step, _ in reported] == [2, 4]
    (run,) = (tmp_path / "runs").iterdir()
    assert len(list(run.glob("checkpoint-*"))) == 1  # saved on the way out


def test_mistakes_are_named_before_any_trial(tmp_path, text, capfd):
    assert main(flags(tmp_path, text, "--try", "depth=1..2")) == 2
    assert "there is no setting 'depth' to try; there are: accumulate, " in capfd.readouterr().err
    assert main(flags(tmp_path, text)) == 2
    assert "nothing is to be tried" in capfd.readouterr().err
    assert not (tmp_path / "study").exists()


@pytest.fixture
def series(tmp_path):
    times = pd.date_range("2024", periods=150, freq="h")
    frame = pd.DataFrame({"ds": times, "load": np.sin(np.arange(150) / 4)})
    frame.to_csv(tmp_path / "series.csv", index=False)
    return tmp_path / "series.csv"


@pytest.fixture
def rows(tmp_path):
    random = np.random.default_rng(0)
    table = np.repeat([[1.0], [2.0]], 12, axis=0) * np.ones((1, 9))
    table[:, 1:] += 0.1 * random.normal(size=(24, 8))
    np.savetxt(tmp_path / "rows.txt", table)
    return tmp_path / "rows.txt"


@pytest.mark.parametrize(
    ("verb", "more"),
    [
        ("forecast", ["--horizon=4", "--folds=2", "--context-length=16", "--max-epochs=1"]),
        ("anomalies", ["--epochs=1"]),
        ("classify", ["--folds=2"]),
    ],
)
def test_an_estimators_width_is_found(tmp_path, verb, more, series, rows, capfd):
    data = rows if verb == "classify" else series
    tried = ["--try", "d-model=8,16", "--try", "learning-rate=log:1e-3..1e-2"]
    if verb == "classify":
        tried += ["--try", "max-epochs=1..2"]
    study = ["tune", f"--out={tmp_path / 'study'}", "--trials=2", *tried]
    assert main([*study, verb, str(data), *more]) == 0
    out = capfd.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out] == ["trial 0", "trial 1", "best"]
    best = json.loads((tmp_path / "study" / "best.json").read_text())
    assert best["d_model"] in (8, 16)
    assert np.isfinite(best["score"])
    assert main([*study, verb, str(data), *more]) == 0
    assert [line.split(":")[0] for line in capfd.readouterr().out.splitlines()] == ["best"]
    assert main([*study, "--try", "horizon=1..2", verb, str(data), *more]) == 2
    assert "there is no setting 'horizon' to try" in capfd.readouterr().err


def test_the_last_horizon_of_a_forecast_is_not_looked_at(tmp_path, series, capfd):
    frame = pd.read_csv(series)
    frame.loc[146:, "load"] = 1e6
    frame.to_csv(tmp_path / "other.csv", index=False)
    scores = []
    for file in (series, tmp_path / "other.csv"):
        out = tmp_path / file.stem
        flags = ["--horizon=4", "--folds=1", "--context-length=16", "--max-epochs=1"]
        study = ["tune", f"--out={out}", "--trials=1", "--try", "d-model=8,16"]
        assert main([*study, "forecast", str(file), *flags]) == 0
        scores.append(json.loads((out / "best.json").read_text())["score"])
    assert scores[0] == scores[1]


def test_rows_are_read_in_any_of_their_forms(tmp_path):
    for text in ("1 0.5 2\n2 1 3\n", "  1.0e+00   0.5 2\n  2.0e+00 1 3\n", "1,0.5,2\n2,1,3\n"):
        (tmp_path / "rows.txt").write_text(text)
        X, y = read_rows(tmp_path / "rows.txt")
        assert X.tolist() == [[0.5, 2.0], [1.0, 3.0]]
        assert y.tolist() == [1, 2]
    (tmp_path / "rows.txt").write_text("1 a 2\n")
    with pytest.raises(ValueError, match=r"must have a class and then numbers .*: column 2"):
        read_rows(tmp_path / "rows.txt")
