import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import psutil
import pytest
from stand_in import short_run

from exlstm.experiments import sweep
from exlstm.experiments.sweep import results_file

HERE = Path(__file__).parent
MODULE = import_module("exlstm.experiments.sweep")  # its name is its function's, too


def record(run, **fields):
    return {"identity": run.identity, "run": {}, **fields}


def start_nothing(monkeypatch):
    """The list into which the runs go that would be started; each has a result at once."""
    started = []

    def do(runs, results, jobs, measure):
        started.extend(runs)
        for run in runs:
            results.append(record(run, result="stand-in"))

    monkeypatch.setattr(MODULE, "_do", do)
    return started


# The first run is over in no time, the second never.
SWEEP = """
from pathlib import Path
from stand_in import LastToken, short_run
from exlstm.experiments import sweep
from exlstm.tasks import TASKS
TASKS["last-token"] = LastToken()
if __name__ == "__main__":
    runs = [short_run(steps=2), short_run(steps=10**9, stop_at=None)]
    sweep(runs, Path("out.jsonl"), jobs=1)
"""


@pytest.mark.parametrize("how", ["kill -9", "ctrl-c", "a worker killed"])
def test_a_sweep_that_is_cut_off_repeats_nothing_finished(tmp_path, how, monkeypatch):
    path = tmp_path / "out.jsonl"
    environment = {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parents[1]}"}
    process = subprocess.Popen(
        [sys.executable, "-c", SWEEP], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
    )
    while not path.exists() or path.read_bytes().count(b"\n") < 1:
        assert process.poll() is None
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    if how == "a worker killed":
        for worker in workers:
            worker.kill()
    else:
        process.send_signal(signal.SIGINT if how == "ctrl-c" else signal.SIGKILL)
    assert process.wait(30) != 0
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["identity"] == short_run(steps=2).identity

    again = start_nothing(monkeypatch)
    done, missing = sweep([short_run(steps=2), short_run(steps=3)], path)
    assert again == [short_run(steps=3)]
    assert done == json.loads(line)
    assert missing["result"] == "stand-in"
    assert path.read_text().splitlines()[0] == line


def number_of_answers(model, task):
    return {"answers": model.head.out_features, "of": task.name}


def test_every_model_is_measured_in_its_process(tmp_path):
    runs = [short_run(steps=2), short_run(steps=2, seed=1)]
    found = sweep(runs, tmp_path / "out.jsonl", jobs=1, measure=number_of_answers)
    assert [one["result"]["measured"] for one in found] == [{"answers": 4, "of": "last-token"}] * 2
    assert "measured" not in sweep([short_run(steps=1)], tmp_path / "out.jsonl")[0]["result"]


def test_nothing_is_started_for_what_is_there(tmp_path, monkeypatch):
    path, run = tmp_path / "out.jsonl", short_run()
    with results_file(path) as results:
        results.append(record(run, result="kept"))
        results.append(record(short_run(seed=1), error="kept too"))
    started = start_nothing(monkeypatch)
    got = sweep([run, short_run(seed=1)], path)
    assert [one.get("result", one.get("error")) for one in got] == ["kept", "kept too"]
    assert not started


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_half_written_line_is_dropped_and_reported(tmp_path, capsys, monkeypatch, cut):
    path, runs = tmp_path / "out.jsonl", [short_run(), short_run(seed=1)]
    with results_file(path) as results:
        for run in runs:
            results.append(record(run, result="stand-in"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    started = start_nothing(monkeypatch)
    sweep(runs, path)
    assert started == runs[1:]
    assert path.read_bytes() == whole
    assert capsys.readouterr().out == f"{path}: took away a last line that was half written\n"


@pytest.mark.parametrize("line", ["text", "[1, 2]", '{"identity": ["a"]}', "{}", "7"])
def test_another_file_is_left_alone(tmp_path, line):
    path = tmp_path / "out.jsonl"
    path.write_text(f'{{"identity": "a"}}\n{line}\n')
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"line 2 of {path} is no run"):
        sweep([short_run()], path)
    assert path.read_bytes() == before


def test_two_sweeps_do_not_write_to_one_file(tmp_path):
    path = tmp_path / "out.jsonl"
    with results_file(path), pytest.raises(ValueError, match="another sweep writes to"):
        sweep([short_run()], path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "gru"}, "there is no model 'gru'"),
        ({"task": "chess"}, "there is no task 'chess'; there are: .*last-token"),
        ({"task": "last-token,size=3"}, "there is no option 'size'; there are: num_tokens"),
        ({"task": "last-token,num_tokens=x"}, "num_tokens=x must be a whole number"),
        ({"lengths": (1, 6)}, "lengths: rows of last-token have at least 2 steps, got 1"),
        ({"test_lengths": (6, 5)}, r"test_lengths: lengths must be .*, got \(6, 5\)"),
        ({"d_model": 0}, "d_model must be at least 1"),
    ],
)
def test_a_mistake_shows_before_any_run(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        sweep([short_run(), short_run(**fields)], tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_jobs_are_at_least_one(tmp_path):
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        sweep([short_run()], tmp_path / "out.jsonl", jobs=0)
