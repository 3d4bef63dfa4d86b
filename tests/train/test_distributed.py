"""Two processes compute what one does, die at any moment, and go on as two or as one."""

import os
import random
import shutil
import signal
import time
from dataclasses import replace

import pytest
import torch
from launching import command, finish, launch, wait_for_step

from exlstm.cli import main
from exlstm.models import load_model
from exlstm.train import TrainArguments, run, train
from exlstm.train.checkpoint import checkpoints, step_of
from exlstm.train.metrics import read_metrics

# No dropout: two processes do not draw the numbers of one.
CHANGES = {"pattern": "msMS", "dropout": 0.0, "batch_size": 4, "steps": 50, "save_every": 20}
CHANGES |= {"eval_every": 25, "eval_windows": 3}
KINDS = {
    "ddp": {"sharding": "ddp"},
    "ddp in the background": {"sharding": "ddp", "async_save": True},
    "fsdp": {"sharding": "fsdp"},
    "fsdp in the background": {"sharding": "fsdp", "async_save": True},
}


@pytest.fixture(scope="module")
def values(small_values):
    return {**small_values, **CHANGES}


@pytest.fixture(scope="module")
def alone(values, tmp_path_factory):
    """The run of one process."""
    return train(TrainArguments(out=tmp_path_factory.mktemp("alone") / "run", **values))


@pytest.fixture(scope="module")
def whole(values, tmp_path_factory, processes):
    """Runs of two processes that were never killed, by kind."""
    done = {}

    def get(kind):
        if kind not in done:
            done[kind] = tmp_path_factory.mktemp("whole") / "run"
            argv = command(values, out=done[kind], **KINDS[kind])
            assert finish(launch(processes, argv)) == [0, 0]
        return done[kind]

    return get


def metrics(out):
    keys = {"step", "loss", "grad_norm", "learning_rate", "validation_loss"}
    lines = read_metrics(out / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key in keys} for line in lines]


def contents(checkpoint):
    return {path.name: path.read_bytes() for path in checkpoint.iterdir()}


def assert_close(out, alone):
    for line, expected in zip(metrics(out), metrics(alone.metrics.parent), strict=True):
        assert line == pytest.approx(expected, abs=1e-4)
    weights = load_model(out / "checkpoint-000050").state_dict()
    for name, expected in load_model(alone.checkpoint).state_dict().items():
        torch.testing.assert_close(weights[name], expected, rtol=0, atol=1e-4)


def assert_same_bits(out, whole):
    assert metrics(out) == metrics(whole)
    assert contents(out / "checkpoint-000050") == contents(whole / "checkpoint-000050")
    assert not list(out.glob(".checkpoint*"))


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_compute_what_one_does(kind, whole, alone):
    assert_close(whole(kind), alone)
    files = {path.name for path in (whole(kind) / "checkpoint-000050").glob("*.safetensors")}
    parts = ["-00001-of-00002", "-00002-of-00002"] if kind.startswith("fsdp") else [""]
    weights = {f"{what}{part}.safetensors" for what in ("model", "optimizer") for part in parts}
    assert files == {"random.safetensors", *weights}


def test_parts_become_one_file(whole, tmp_path):
    parts = whole("fsdp") / "checkpoint-000050"
    assert main(["convert", str(parts), str(tmp_path / "model")]) == 0
    assert (tmp_path / "model" / "model.safetensors").is_file()
    converted = load_model(tmp_path / "model").state_dict()
    for name, value in load_model(parts).state_dict().items():
        assert torch.equal(converted[name], value)


def test_a_checkpoint_does_not_tell_when_it_was_written(whole):
    for kind in ("ddp", "fsdp"):
        assert_same_bits(whole(f"{kind} in the background"), whole(kind))


# Kind, and which process dies before which call. Checkpoints are written at steps 20, 40 and 50,
# of FSDP2 by both processes two files each, by process 0 the random state too.
MOMENTS = {
    "before a step": ("ddp", (1, ("exlstm.train.trainer", "WithLoss.forward", 31))),
    "writing a checkpoint": ("ddp", (0, ("exlstm.train.checkpoint", "write_file", 5))),
    "writing a part": ("fsdp", (1, ("exlstm.train.checkpoint", "write_file", 4))),
    "one part is written, the other not": (
        "fsdp in the background",
        (0, ("exlstm.train.checkpoint", "write_file", 4)),
    ),
    "before the name is given": ("fsdp", (0, ("exlstm.train.checkpoint", "Path.rename", 1))),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_goes_on_as_two_and_as_one(
    moment, values, whole, alone, tmp_path, processes, monkeypatch
):
    kind, victim = MOMENTS[moment]
    out = tmp_path / "run"
    codes = finish(launch(processes, command(values, out=out, **KINDS[kind]), victim=victim))
    assert codes[victim[0]] == -signal.SIGKILL
    assert codes[1 - victim[0]] != 0  # killed too, or it lost its peer before that
    go_on_as_two_and_as_one(out, values, kind, whole, alone, processes, monkeypatch)


@pytest.mark.parametrize("kind", ["ddp", "fsdp in the background"])
def test_a_run_killed_at_a_random_moment_goes_on(
    kind, values, whole, alone, tmp_path, processes, monkeypatch
):
    out = tmp_path / "run"
    started = launch(processes, command(values, out=out, **KINDS[kind]))
    wait_for_step(out, random.randrange(18, 23), started)
    time.sleep(random.uniform(0, 0.05))
    for process in started:
        process.kill()
    finish(started)
    go_on_as_two_and_as_one(out, values, kind, whole, alone, processes, monkeypatch)


@pytest.mark.parametrize("process", [0, 1])
def test_ctrl_c_stops_all_processes_after_the_same_step(process, values, tmp_path, processes):
    out = tmp_path / "run"
    started = launch(processes, command(values, out=out, steps=5000, sharding="fsdp"))
    wait_for_step(out, 3, started)
    os.kill(started[process].pid, signal.SIGINT)
    assert finish(started) == [130, 130]
    (checkpoint,) = checkpoints(out)
    load_model(checkpoint)
    assert [line["step"] for line in metrics(out)][-1] == step_of(checkpoint)


def go_on_as_two_and_as_one(out, values, kind, whole, alone, processes, monkeypatch):
    for checkpoint in checkpoints(out):
        assert contents(checkpoint).keys() == contents(whole(kind) / "checkpoint-000050").keys()
    copy = shutil.copytree(out, out.with_name("copy"))
    assert finish(launch(processes, command({"out": out, "resume": True}))) == [0, 0]
    assert_same_bits(out, whole(kind))
    monkeypatch.setattr(run, "_FSDP_ON_CPU", True)
    train(TrainArguments(out=copy, resume=True, **values, **KINDS[kind]))
    assert_close(copy, alone)


def test_a_run_of_one_goes_on_as_three_with_parts(values, alone, tmp_path, processes):
    arguments = {**values, "batch_size": 6, "steps": 12, "save_every": 6}
    one = train(TrainArguments(out=tmp_path / "one", **{**arguments, "keep": 2}))
    out = shutil.copytree(tmp_path / "one", tmp_path / "run")
    shutil.rmtree(out / "checkpoint-000012")
    argv = command({"out": out, "resume": True, "sharding": "fsdp"})
    assert finish(launch(processes, argv, num_processes=3)) == [0, 0, 0]
    for line, expected in zip(metrics(out), metrics(tmp_path / "one"), strict=True):
        assert line == pytest.approx(expected, abs=1e-4)
    weights = load_model(out / "checkpoint-000012").state_dict()
    for name, expected in load_model(one.checkpoint).state_dict().items():
        torch.testing.assert_close(weights[name], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("process", [0, 1])
def test_a_damaged_part_stops_all_processes_with_one_line(process, values, tmp_path, processes):
    arguments = {**values, "steps": 4, "out": tmp_path / "run", "sharding": "fsdp"}
    assert finish(launch(processes, command(arguments))) == [0, 0]
    (checkpoint,) = checkpoints(tmp_path / "run")
    path = sorted(checkpoint.glob("*.safetensors"))[process]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    shutil.move(checkpoint, checkpoint.with_name("checkpoint-000002"))
    assert finish(launch(processes, command({"out": tmp_path / "run", "resume": True}))) == [2, 0]
    said = [(tmp_path / f"{rank}.err").read_text() for rank in (0, 1)]
    named = f"{tmp_path}/run/checkpoint-000002/{path.name} is damaged, it is not what was written"
    assert said == [f"exlstm: {named}; remove checkpoint-000002 to resume from the checkpoint "
                    "before\n", ""]  # fmt: skip


def test_a_checkpoint_of_another_model_is_refused(small, tmp_path):
    train(small())
    other = train(small(out=tmp_path / "other", d_model=32))
    shutil.rmtree(tmp_path / "run" / "checkpoint-000010")
    other.checkpoint.rename(tmp_path / "run" / "checkpoint-000008")
    message = "checkpoint-000008 is of another model: its d_model is 32, that of the run 16"
    with pytest.raises(ValueError, match=message):
        train(small(resume=True))


def test_fsdp_on_a_cpu_is_refused(small):
    arguments = small(sharding="fsdp")
    with pytest.raises(ValueError, match="sharding: fsdp is not possible on a CPU, it must be ddp"):
        train(arguments)
    assert not arguments.out.exists()
    with pytest.raises(
        ValueError, match="sharding: zero is not possible, it must be one of ddp, fsdp"
    ):
        train(replace(arguments, sharding="zero"))
