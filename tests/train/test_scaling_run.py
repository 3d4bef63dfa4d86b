"""The miniature law: a grid of ordinary runs, each made once."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from exlstm.cli import main
from exlstm.models.accounting import training_flops
from exlstm.train import child
from exlstm.train.scaling import ScalingRunArguments, grid, model_of_size, run_grid


@pytest.fixture
def arguments(tmp_path, corpus):
    return ScalingRunArguments(
        out=tmp_path / "grid",
        data=corpus,
        pattern="m",
        num_heads=2,
        sizes=(12_000, 24_000),
        tokens=(64, 128),
        context=16,
        batch_size=2,
        eval_windows=2,
    )


class Ended:
    """A process that is over."""

    def __init__(self, returncode, errors=""):
        self.returncode = returncode
        self.errors = errors

    def communicate(self):
        return None, self.errors


@pytest.fixture
def trained(monkeypatch):
    """`exlstm train` in place of which a law writes the loss; what it was asked for."""
    commands = []

    def run(command, **_):
        flags = dict(word[2:].split("=", 1) for word in command if "=" in word)
        commands.append({**flags, "resume": "--resume" in command})
        config = model_of_size(int(flags["d-model"]) * 700, "m", 2, 257)
        out, steps = Path(flags["out"]), int(flags["steps"])
        out.mkdir(parents=True, exist_ok=True)
        loss = 2 + 500 / config.num_params() + 10 / steps + float(flags["learning-rate"])
        rows = [{"step": steps - 1, "loss": loss}, {"step": steps, "validation_loss": loss}]
        (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Ended(0)

    monkeypatch.setattr(child.subprocess, "Popen", run)
    return commands


def test_a_grid_trains_for_real_and_once(arguments, monkeypatch, capsys):
    small = ScalingRunArguments(**{**vars(arguments), "sizes": (12_000,)})
    runs = run_grid(small)
    assert [(run.parameters, run.tokens) for run in runs] == [(10_788, 64), (10_788, 128)]
    assert all(0 < run.loss < math.log(257) + 1 for run in runs)
    monkeypatch.setattr(child.subprocess, "Popen", None)
    assert run_grid(small) == runs
    assert "next: exlstm scaling fit" in capsys.readouterr().out
    rows = [json.loads(line) for line in (small.out / "runs.jsonl").read_text().splitlines()]
    assert rows[0]["flops"] == 64 * training_flops(model_of_size(12_000, "m", 2, 257))


def test_the_best_learning_rate_counts(arguments, trained):
    both = ScalingRunArguments(**{**vars(arguments), "learning_rates": (0.3, 0.1)})
    runs = run_grid(both)
    assert len(trained) == 8
    assert len(runs) == 4
    rows = [json.loads(line) for line in (both.out / "runs.jsonl").read_text().splitlines()]
    assert {row["learning_rate"] for row in rows} == {0.1}
    assert all(command["threads"] == "1" for command in trained)


def test_a_run_that_was_begun_goes_on(arguments, trained):
    first = next(grid(arguments))[0].out
    first.mkdir(parents=True)
    (first / "run.json").write_text("{}")
    (first / "metrics.jsonl").write_text('{"step": 1, "loss": 5.0}\n')
    run_grid(arguments)
    assert [c["resume"] for c in trained if c["out"] == str(first)] == [True]
    assert sum(c["resume"] for c in trained) == 1


def test_a_run_that_fails_is_named(arguments, monkeypatch):
    def fail(command, **_):
        return Ended(2, "noise\nexlstm: no such data\n")

    monkeypatch.setattr(child.subprocess, "Popen", fail)
    with pytest.raises(
        ValueError, match=r"the run in .*grid/runs/m-.* stopped: exlstm: no such data"
    ):
        run_grid(arguments)


def test_sizes_are_the_nearest_there_are():
    for target in (12_000, 60_000, 400_000):
        config = model_of_size(target, "mmsm", 4, 257)
        widths = [max(config.d_model + step, 16) for step in (0, -16, 16)]
        sizes = [replace(config, d_model=width).num_params() for width in widths]
        mine, *others = (abs(size - target) for size in sizes)
        assert mine <= min(others)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": (100,)}, "sizes: 100 is below the smallest m"),
        ({"tokens": ()}, r"tokens: \(\) is not possible"),
        ({"learning_rates": (0.0,)}, r"learning_rates: \(0.0,\) is not possible"),
        ({"jobs": 0}, "jobs: 0 is not possible"),
    ],
)
def test_what_cannot_be_is_refused(arguments, changes, message):
    with pytest.raises(ValueError, match=message):
        run_grid(ScalingRunArguments(**{**vars(arguments), **changes}))
    assert not arguments.out.exists()


def test_a_grid_is_fitted_from_its_folder(arguments, trained, capsys):
    wide = ScalingRunArguments(
        **{**vars(arguments), "sizes": (12_000, 24_000, 60_000), "tokens": (64, 128, 512)}
    )
    run_grid(wide)
    assert main(["scaling", "fit", str(wide.out), "--bootstrap", "2", "--gamma", "1"]) == 0
    said = capsys.readouterr().out
    assert "m: 9 runs" in said
    results = json.loads((wide.out / "fit.json").read_text())
    assert results["m"]["r_squared"] > 0.999
    assert results["m"]["law"]["gamma"] == 1.0
    assert (wide.out / "m-loss.png").read_bytes().startswith(b"\x89PNG")


def test_budgets_in_a_file_are_fitted_too(tmp_path, capsys):
    rows = ["model,N,D,loss,flops"]
    for flops in (1e18, 1e19):
        for factor in (0.25, 0.5, 1, 2, 4):
            n = flops**0.5 / 20 * factor
            d = flops / 6 / n
            rows.append(f"x,{n},{d},{1.7 + 400 * n**-0.34 + 400 * d**-0.28},{flops}")
    (tmp_path / "runs.csv").write_text("\n".join(rows) + "\n")
    argv = ["scaling", "fit", str(tmp_path / "runs.csv"), "--out", str(tmp_path / "fit")]
    assert main([*argv, "--bootstrap", "2"]) == 0
    assert "IsoFLOP parameters: exponent 0.4" in capsys.readouterr().out
    assert (tmp_path / "fit" / "x-isoflop.png").exists()
    exponent = json.loads((tmp_path / "fit" / "fit.json").read_text())["x"]["isoflop"]
    assert exponent["parameters"]["exponent"] == pytest.approx(0.28 / 0.62, abs=0.02)


def test_mistakes_are_one_line(tmp_path, capsys):
    assert main(["scaling", "fit", str(tmp_path / "no.csv")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("exlstm: ")
    assert error.count("\n") == 1
