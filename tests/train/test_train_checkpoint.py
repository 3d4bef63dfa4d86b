"""Checkpoint folders and the state in them."""

import threading
import time

import pytest
import torch

from exlstm.models.tensor_files import write_file
from exlstm.train import checkpoint as checkpoints
from exlstm.train.optimizer import adamw
from exlstm.train.sharded import files_of


def make(width, seed):
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, width)
    optimizer = adamw(model, learning_rate=0.1, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-5)
    return model, optimizer


def step(model, optimizer):
    model(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def save_optimizer(folder, model, optimizer):
    tensors = checkpoints.optimizer_tensors(model, optimizer)
    write_file(folder / "optimizer.safetensors", tensors)


def test_the_optimizer_goes_on_where_it_was(tmp_path):
    model, optimizer = make(4, seed=0)
    step(model, optimizer)
    save_optimizer(tmp_path, model, optimizer)
    other, other_optimizer = make(4, seed=1)
    other.load_state_dict(model.state_dict())
    checkpoints.load_optimizer(tmp_path, other, other_optimizer)
    for pair in ((model, optimizer), (other, other_optimizer)):
        step(*pair)
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)


def test_the_state_of_another_model_is_refused(tmp_path):
    model, optimizer = make(4, seed=0)
    step(model, optimizer)
    save_optimizer(tmp_path, model, optimizer)
    with pytest.raises(ValueError, match=r"of another model: (weight|bias) \(4.*\) has no place"):
        checkpoints.load_optimizer(tmp_path, *make(5, seed=0))


def test_random_numbers_go_on_where_they_were(tmp_path):
    torch.manual_seed(3)
    write_file(tmp_path / "r.safetensors", checkpoints.random_tensors())
    expected = torch.randn(5)
    torch.manual_seed(4)
    checkpoints.load_random(tmp_path / "r.safetensors")
    assert torch.equal(torch.randn(5), expected)


def fill(folder):
    (folder / "file").write_text("text")


def fail(folder):
    fill(folder)
    raise OSError("no space left")


def test_only_whole_checkpoints_count(tmp_path):
    writer = checkpoints.CheckpointWriter(tmp_path, keep=3)
    for number in (2, 10, 1_000_000):
        writer.begin(number, {"t.safetensors": {"t": torch.ones(2)}}, fill)
    writer.begin(11, {}, fail)
    with pytest.raises(OSError, match="no space left"):
        writer.wait()
    assert not list(tmp_path.glob(".*"))
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / ".checkpoint-000012.partial").mkdir()
    found = checkpoints.checkpoints(tmp_path)
    assert [checkpoints.step_of(path) for path in found] == [2, 10, 1_000_000]
    checkpoints.remove_partial(tmp_path)
    assert not list(tmp_path.glob(".*"))
    checkpoints.remove_old(tmp_path, keep=1)
    assert checkpoints.checkpoints(tmp_path) == found[-1:]


def test_a_checkpoint_in_the_background_appears_when_it_is_written(tmp_path):
    writer, written = checkpoints.CheckpointWriter(tmp_path, keep=1), threading.Event()
    writer.begin(5, {}, lambda folder: fill(folder) or written.wait(60))
    writer.poll()
    assert not checkpoints.checkpoints(tmp_path)
    written.set()
    while not checkpoints.checkpoints(tmp_path):
        writer.poll()
    assert (tmp_path / "checkpoint-000005" / "file").read_text() == "text"


def test_an_error_in_the_background_is_raised_by_the_next_poll(tmp_path):
    writer = checkpoints.CheckpointWriter(tmp_path, keep=1)
    writer.begin(5, {}, fail)
    while writer._thread.is_alive():
        time.sleep(0.001)
    with pytest.raises(OSError, match="no space left"):
        writer.poll()
    writer.poll()
    writer.wait()


@pytest.mark.parametrize("name", ["t.safetensors", "file", "checksums.json"])
def test_a_file_that_is_not_what_was_written_is_named(tmp_path, name):
    writer = checkpoints.CheckpointWriter(tmp_path, keep=1)
    writer.begin(5, {"t.safetensors": {"t": torch.ones(1000)}}, fill)
    writer.wait()
    (checkpoint,) = checkpoints.checkpoints(tmp_path)
    checkpoints.verify(checkpoint)
    path = checkpoint / name
    written = path.read_bytes()
    changed = bytearray(written)
    changed[3] ^= 1
    message = rf"checkpoint-000005/{name} (is damaged|cannot be read).*; remove checkpoint-000005"
    for content in (changed, written[:-3], b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            checkpoints.verify(checkpoint)
    path.unlink()
    with pytest.raises(ValueError, match=message):
        checkpoints.verify(checkpoint)


def test_the_processes_share_the_writing_by_bytes():
    sizes = {"a": 7, "b": 4, "c": 4, "d": 3, "e": 1}
    files = files_of("x", {name: torch.zeros(size) for name, size in sizes.items()}, 2)
    assert [file[:7] for file in files.values()] == ["x-00001", "x-00002", "x-00002", "x-00001",
                                                     "x-00002"]  # fmt: skip
    few = files_of("x", {name: torch.zeros(1) for name in "ab"}, 8)
    assert few == {"a": "x-00001-of-00008.safetensors", "b": "x-00002-of-00008.safetensors"}
