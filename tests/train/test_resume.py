"""A training killed at any moment and resumed ends with the bits of one never killed."""

import contextlib
import importlib
import io
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from exlstm.cli import main
from exlstm.train import TrainArguments, train
from exlstm.train.metrics import read_metrics

# Where a process kills itself: what it is about to call, and for which time. The run saves at
# steps 4, 8 and 10 and keeps one checkpoint.
MOMENTS = {
    "tokenising": ("exlstm.data.token_file", "segments", 3),
    "before the index of the tokens": ("exlstm.data.token_file", "write_split", 2),
    "before the manifest of the tokens": ("exlstm.data.token_file", "write_manifest", 1),
    "before the first checkpoint": ("exlstm.train.trainer", "LanguageModelTrainer.log", 3),
    "writing the first checkpoint": ("exlstm.train.checkpoint", "write_file", 2),
    "before the second is renamed": ("exlstm.train.checkpoint", "_sync", 17),
    "between checkpoints": ("exlstm.train.trainer", "LanguageModelTrainer._get_grad_norm", 7),
    "removing the old checkpoint": ("exlstm.train.checkpoint", "shutil.rmtree", 1),
    "writing the last checkpoint": ("exlstm.train.checkpoint", "write_file", 9),
    "drawing the curve": ("exlstm.train.run", "draw_curve", 1),
}


def kill_before(module, name, call):
    """Make the process kill itself instead of calling something for the `call`-th time."""
    *owner_names, name = name.split(".")
    owner = importlib.import_module(module)
    for part in owner_names:
        owner = getattr(owner, part)
    original, calls = getattr(owner, name), iter(range(1, 1_000_000))

    def patched(*args, **kwargs):
        if next(calls) == call:
            if name == "rmtree":  # half of the work is done
                next(args[0].iterdir()).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, patched)


def victim(arguments, moment):
    if moment is not None:
        kill_before(*MOMENTS[moment])
    with contextlib.redirect_stdout(io.StringIO()):
        train(TrainArguments.from_dict(arguments))


def command_line(arguments):
    argv = ["train"]
    for name, value in arguments.items():
        if value not in (None, False):
            argv += [f"--{name.replace('_', '-')}", str(value)]
    stdout = Path(arguments["out"]).parent / "stdout"
    with stdout.open("w") as file, contextlib.redirect_stdout(file):
        code = main(argv)
    sys.exit(code)


@pytest.fixture(scope="module")
def reference(small_values, tmp_path_factory):
    """A run never killed."""
    out = tmp_path_factory.mktemp("reference") / "run"
    return train(TrainArguments(out=out, **small_values))


def contents(checkpoint):
    return {path.name: path.read_bytes() for path in checkpoint.iterdir()}


def metrics(out):
    lines = read_metrics(out / "metrics.jsonl")
    for line in lines:
        del line["elapsed"], line["tokens_per_second"]
    return lines


def assert_same(result, reference):
    assert result.checkpoint.name == reference.checkpoint.name == "checkpoint-000010"
    assert contents(result.checkpoint) == contents(reference.checkpoint)
    out = result.checkpoint.parent
    assert metrics(out) == metrics(reference.checkpoint.parent)
    visible = {"run.json", "metrics.jsonl", "loss.png", "data", "checkpoint-000010"}
    assert {path.name for path in out.iterdir()} == visible | {".lock"}
    names = {"train-00000.bin", "train.index", "val-00000.bin", "val.index"}
    names |= {"manifest.json", "exlstm_tokenizer.json"}
    assert {path.name for path in (out / "data").iterdir()} == names


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_and_resumed_ends_with_the_same_bits(moment, small, reference, processes):
    arguments = small()
    process = processes.Process(target=victim, args=(arguments.to_dict(), moment))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    for checkpoint in arguments.out.glob("checkpoint-*"):
        assert contents(checkpoint).keys() == contents(reference.checkpoint).keys()
    assert_same(train(replace(arguments, resume=True)), reference)


def test_a_run_killed_from_outside_twice_ends_with_the_same_bits(small, reference, processes):
    arguments = small()
    for resume, step in ((False, 2), (True, 6)):
        arguments = replace(arguments, resume=resume)
        process = processes.Process(target=victim, args=(arguments.to_dict(), None))
        process.start()
        wait_for_step(arguments.out, step, process)
        process.kill()
        process.join()
    assert_same(train(replace(arguments, resume=True)), reference)


def test_ctrl_c_saves_and_the_run_goes_on(small, reference, processes):
    arguments = small(steps=5000)
    process = processes.Process(target=command_line, args=(arguments.to_dict(),))
    process.start()
    wait_for_step(arguments.out, 5, process)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130
    (checkpoint,) = arguments.out.glob("checkpoint-*")
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    assert [line["step"] for line in metrics(arguments.out)] == list(range(1, step + 1))
    said = (arguments.out.parent / "stdout").read_text()
    assert f"stopped, {checkpoint} is saved" in said
    assert f"exlstm train --resume --out {arguments.out}" in said


def wait_for_step(out, step, process):
    path = out / "metrics.jsonl"
    while not (path.exists() and path.read_text().count("\n") >= step):
        assert process.is_alive()
        time.sleep(0.001)
