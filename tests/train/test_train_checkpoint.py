"""Checkpoint folders and the state in them."""

import pytest
import torch

from exlstm.train import checkpoint as checkpoints
from exlstm.train.optimizer import adamw


def make(width, seed):
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, width)
    optimizer = adamw(model, learning_rate=0.1, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-5)
    return model, optimizer


def step(model, optimizer):
    model(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_the_optimizer_goes_on_where_it_was(tmp_path):
    model, optimizer = make(4, seed=0)
    step(model, optimizer)
    checkpoints.save_optimizer(tmp_path / "o.safetensors", model, optimizer)
    other, other_optimizer = make(4, seed=1)
    other.load_state_dict(model.state_dict())
    checkpoints.load_optimizer(tmp_path / "o.safetensors", other, other_optimizer)
    for pair in ((model, optimizer), (other, other_optimizer)):
        step(*pair)
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)


def test_the_state_of_another_model_is_refused(tmp_path):
    model, optimizer = make(4, seed=0)
    step(model, optimizer)
    checkpoints.save_optimizer(tmp_path / "o.safetensors", model, optimizer)
    with pytest.raises(ValueError, match=r"of another model: (weight|bias) \(4.*\) has no place"):
        checkpoints.load_optimizer(tmp_path / "o.safetensors", *make(5, seed=0))


def test_random_numbers_go_on_where_they_were(tmp_path):
    torch.manual_seed(3)
    checkpoints.save_random(tmp_path / "r.safetensors")
    expected = torch.randn(5)
    torch.manual_seed(4)
    checkpoints.load_random(tmp_path / "r.safetensors")
    assert torch.equal(torch.randn(5), expected)


def test_only_whole_checkpoints_count(tmp_path):
    def fill(folder):
        (folder / "file").touch()

    def fail(folder):
        fill(folder)
        raise OSError("no space left")

    for number in (2, 10, 1_000_000):
        checkpoints.write_checkpoint(tmp_path, number, fill)
    with pytest.raises(OSError, match="no space left"):
        checkpoints.write_checkpoint(tmp_path, 11, fail)
    (tmp_path / "checkpoint-best").mkdir()
    found = checkpoints.checkpoints(tmp_path)
    assert [checkpoints.step_of(path) for path in found] == [2, 10, 1_000_000]
    checkpoints.remove_partial(tmp_path)
    assert not list(tmp_path.glob(".*"))
    checkpoints.remove_old(tmp_path, keep=1)
    assert checkpoints.checkpoints(tmp_path) == found[-1:]
