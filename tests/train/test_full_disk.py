"""A disk that fills up: one clear line, the last good checkpoint whole, and a run that goes on."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from launching import command, finish, launch

from exlstm.models import load_model
from exlstm.train import run, train
from exlstm.train.checkpoint import checkpoints
from exlstm.train.metrics import read_metrics
from exlstm.train.run_folder import resumed_arguments


def fill_up():
    """From now on the system refuses to write more than 8 KB to a file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))


# Before step 7, between the checkpoints of steps 4 and 8.
FULL = (("exlstm.train.trainer", "LanguageModelTrainer.training_step", 7), fill_up)


LINE = (
    r"exlstm: out: {out} cannot be written \({reason}\); the last checkpoint is "
    r"{out}/checkpoint-000004; make room, then go on with \S*exlstm train --resume --out {out}\n"
)


def assert_one_line(said, out, reason):
    ours = said[said.find("exlstm: ") :]  # other libraries may have warned before
    assert re.fullmatch(LINE.format(out=re.escape(str(out)), reason=reason), ours), said
    assert "Traceback" not in said


def assert_the_last_checkpoint_is_whole(out):
    assert [path.name for path in checkpoints(out)] == ["checkpoint-000004"]
    assert not list(out.glob(".checkpoint*"))
    load_model(out / "checkpoint-000004")
    steps = [line["step"] for line in read_metrics(out / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))
    assert 4 <= len(steps) <= 10


@pytest.mark.parametrize("changes", [{}, {"async_save": True}], ids=["at once", "background"])
def test_a_run_goes_on_once_there_is_room(changes, small, small_values, tmp_path, processes):
    out = tmp_path / "run"
    argv = command(small_values, out=out, **changes)
    assert finish(launch(processes, argv, 1, (0, *FULL))) == [2]
    assert_one_line((tmp_path / "0.err").read_text(), out, "File too large")
    assert_the_last_checkpoint_is_whole(out)
    result, whole = train(resumed_arguments(out)), train(small(out=tmp_path / "whole"))
    for path in whole.checkpoint.iterdir():
        assert (result.checkpoint / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("sharding", "process"), [("ddp", 0), ("fsdp", 1)])
def test_process_0_speaks_for_all(
    sharding, process, small_values, tmp_path, processes, monkeypatch
):
    out = tmp_path / "run"
    argv = command(small_values, out=out, sharding=sharding, async_save=True)
    assert finish(launch(processes, argv, 2, (process, *FULL))) == [2, 0]
    assert_one_line((tmp_path / "0.err").read_text(), out, "File too large")
    assert (tmp_path / "1.err").read_text() == ""
    assert_the_last_checkpoint_is_whole(out)
    monkeypatch.setattr(run, "_FSDP_ON_CPU", True)
    assert train(resumed_arguments(out)).steps == 10


SCRIPT = """
import shutil, subprocess, sys
from pathlib import Path

disk, copy, argv = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
exlstm = [sys.executable, "-m", "exlstm.cli", "train"]

def disk_of(size, *remount):
    options = ",".join([*remount, f"size={size}k"])
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", disk], check=True)

disk_of(SIZE)
failed = subprocess.run([*exlstm, *argv], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
sys.stderr.buffer.write(failed.stderr)
shutil.copytree(disk, copy)
disk_of(16384, "remount")
resumed = [*exlstm, "--resume", "--out", disk / "run"]
subprocess.run(resumed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
print(failed.returncode, (disk / "run" / "checkpoint-000010").is_dir())
"""


def test_a_disk_that_is_really_full(small_values, tmp_path):
    """In a namespace of its own a process may mount a small disk, root or not."""
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        subprocess.run([*alone, "mount", "-t", "tmpfs", "none", tmp_path], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system lets us mount no small disk")
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    # A checkpoint of 212 KB, the data and the curve have room, two checkpoints do not.
    script = SCRIPT.replace("SIZE", "400")
    argv = command(small_values, out=disk / "run")[1:]
    done = subprocess.run(
        [*alone, sys.executable, "-c", script, disk, copy, *argv],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert_one_line(done.stderr, disk / "run", "No space left on device")
    assert_the_last_checkpoint_is_whole(copy / "run")
    assert done.stdout == "2 True\n"
    assert not Path(disk / "run").exists()
