"""A run as a whole: what it computes, leaves behind, and refuses."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from exlstm.data import Windows, fixed_windows, load_tokenizer, open_token_file
from exlstm.data.atomic import locked
from exlstm.models import XLSTMConfig, XLSTMLanguageModel, load_model
from exlstm.train import train
from exlstm.train.loss import WithLoss
from exlstm.train.metrics import read_metrics
from exlstm.train.run_folder import resumed_arguments
from exlstm.train.trainer import LanguageModelTrainer


def loss_of(model, tokens):
    with torch.no_grad():
        logits, _ = model(tokens[:, :-1], reset=tokens[:, :-1] == 256)
    return float(F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))


def test_the_first_loss_and_the_last_validation_loss_are_what_they_should_be(small):
    arguments = small(dropout=0.0)
    result = train(arguments)
    first, *_, last = read_metrics(result.metrics)

    file = open_token_file(arguments.out / "data", "train")
    windows = Windows(file, arguments.context, arguments.seed)
    tokens = [
        torch.from_numpy(file.tokens[windows.start(n) :][:17].astype("int64")) for n in (0, 1)
    ]
    torch.manual_seed(arguments.seed)
    fresh = XLSTMLanguageModel(XLSTMConfig(vocab_size=257, d_model=16, pattern="ms", num_heads=2))
    assert first["loss"] == pytest.approx(loss_of(fresh, torch.stack(tokens)), rel=1e-6)
    assert first["bits_per_byte"] == pytest.approx(
        first["loss"] / math.log(2) * len(file.tokens) / file.num_bytes
    )

    file = open_token_file(arguments.out / "data", "val")
    starts, length = fixed_windows(file, arguments.context, arguments.eval_windows)
    assert [len(starts), length] == [4, 16]
    tokens = [torch.from_numpy(file.tokens[n : n + 17].astype("int64")) for n in starts]
    trained = load_model(result.checkpoint)
    assert result.validation_loss == pytest.approx(loss_of(trained, torch.stack(tokens)), rel=1e-6)
    assert last["validation_loss"] == result.validation_loss
    assert result.bits_per_byte == last["validation_bits_per_byte"]


def test_a_run_leaves_what_it_says(small, capsys):
    arguments = small()
    result = train(arguments)
    lines = read_metrics(result.metrics)
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert [line["step"] for line in lines if "validation_loss" in line] == [5, 10]
    assert [line["learning_rate"] for line in lines][:2] == [0.001, 0.001]
    assert result.picture.read_bytes().startswith(b"\x89PNG")
    run = json.loads((arguments.out / "run.json").read_text())
    assert run["arguments"] == arguments.to_dict()
    assert run["versions"]["torch"] == torch.__version__
    said = capsys.readouterr().out
    assert f"exlstm generate {arguments.out}" in said
    assert "a sample:\n\n" in said
    assert str(result.picture) in said


def test_a_checkpoint_needs_nothing_beside_it(small, tmp_path):
    result = train(small())
    moved = result.checkpoint.rename(tmp_path / "elsewhere")
    assert load_model(moved).config.d_model == 16
    assert load_tokenizer(moved).vocab_size == 257
    assert {path.suffix for path in moved.iterdir()} == {".json", ".safetensors"}


def test_the_newest_checkpoints_are_kept(small):
    arguments = small(save_every=2, keep=3)
    train(arguments)
    kept = sorted(path.name for path in arguments.out.glob("checkpoint-*"))
    assert kept == ["checkpoint-000006", "checkpoint-000008", "checkpoint-000010"]


def test_training_learns(small, tmp_path):
    (tmp_path / "abc.txt").write_text("abc" * 500)
    changes = {"dropout": 0.0, "steps": 60, "learning_rate": 1e-2, "save_every": 60}
    result = train(small(data=str(tmp_path / "abc.txt"), **changes))
    assert result.bits_per_byte < 1.0  # a guess among three letters has 1.58


def test_a_batch_in_parts_is_the_same_batch(small):
    whole, parts = small(dropout=0.0), small(dropout=0.0, accumulate=2)
    whole = replace(whole, out=whole.out.with_name("whole"), steps=3)
    parts = replace(parts, out=parts.out.with_name("parts"), steps=3)
    lines = [read_metrics(train(arguments).metrics) for arguments in (whole, parts)]
    for one, other in zip(*lines, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


def test_the_samples_of_a_step_do_not_depend_on_the_number_of_processes(small, monkeypatch):
    seen = []
    monkeypatch.setattr(Windows, "batch", lambda self, samples: seen.extend(samples) or samples)

    class Stub:
        windows = Windows.__new__(Windows)
        arguments = small(batch_size=12)
        state = type("state", (), {"global_step": 7})

    from exlstm.train.trainer import _Batches

    for world, accumulate in [(1, 1), (1, 3), (2, 1), (2, 3), (3, 2)]:
        seen.clear()
        for rank in range(world):
            Stub.args = type("args", (), {
                "process_index": rank, "world_size": world,
                "gradient_accumulation_steps": accumulate,
                "per_device_train_batch_size": 12 // world // accumulate,
            })  # fmt: skip
            batches = iter(_Batches(Stub))
            for _ in range(accumulate):
                next(batches)
        assert sorted(seen) == list(range(84, 96))


@pytest.mark.parametrize("what", ["loss", "gradient norm"])
def test_a_step_that_is_not_finite_stops_the_run_unapplied(small, monkeypatch, what):
    arguments = small()
    steps = iter(range(1, 100))

    def loss(self, inputs, targets, reset):
        result = forward(self, inputs, targets, reset)["loss"]
        if self.training and next(steps) == 6:
            if what == "loss":
                return {"loss": result * math.nan}
            # A finite loss whose derivative is infinite.
            zero = (self.language_model.embedding.weight.flatten()[0] * 0).abs()
            return {"loss": result + zero.sqrt()}
        return {"loss": result}

    forward = WithLoss.forward
    monkeypatch.setattr(WithLoss, "forward", loss)
    with pytest.raises(FloatingPointError, match=f"the {what} is .* at step 6, .*-000004"):
        train(arguments)
    (checkpoint,) = arguments.out.glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-000004"
    assert all(torch.isfinite(value).all() for value in load_model(checkpoint).parameters())
    assert [line["step"] for line in read_metrics(arguments.out / "metrics.jsonl")][-1] == 5
    monkeypatch.setattr(WithLoss, "forward", forward)
    assert train(resumed_arguments(arguments.out)).steps == 10


def test_a_finished_run_resumed_says_so_and_trains_no_more(small, monkeypatch):
    result = train(small())
    monkeypatch.setattr(LanguageModelTrainer, "train", None)
    assert train(small(resume=True)) == result


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.01}, "learning_rate: 0.01 is not what the run .* with, 0.001; resume"),
        ({"steps": 20}, "steps: 20 is not what the run .* began with, 10;"),
        ({"d_model": 32}, "d_model: 32 is not what .* 16;"),
        ({"seed": 1}, "seed: 1 is not"),
        ({"data": None}, "data: '[0-9a-f]{32}' is not what the run .* with, '[0-9a-f]{32}'"),
    ],
)
def test_a_run_is_resumed_as_it_began(small, changes, message):
    arguments = small(steps=10)
    train(arguments)
    with pytest.raises(ValueError, match=message) as caught:
        train(replace(arguments, resume=True, **changes))
    assert "\n" not in str(caught.value)


def test_what_does_not_matter_may_change(small):
    train(small())
    train(small(resume=True, eval_every=3, save_every=7, keep=5, accumulate=2))


def test_two_processes_do_not_share_a_run(small):
    arguments = small()
    with (
        locked(arguments.out),
        pytest.raises(ValueError, match=f"out: .*run is in use by process {os.getpid()}$"),
    ):
        train(arguments)


def test_folders_are_not_overwritten(small, tmp_path):
    arguments = small()
    with pytest.raises(ValueError, match=r"out: .*run holds no run to go on with; leave out"):
        train(replace(arguments, resume=True))
    arguments.out.mkdir()
    (arguments.out / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"out: .*run is not empty and holds no run; give another"):
        train(arguments)
    (arguments.out / "thesis.tex").unlink()
    train(arguments)
    with pytest.raises(ValueError, match="holds a run already; add --resume, or give another"):
        train(arguments)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"out: .*file is a file"):
        train(replace(arguments, out=tmp_path / "file"))


def test_a_run_does_not_learn_from_itself(small, tmp_path):
    (tmp_path / "text.txt").write_text("some text " * 100)
    with pytest.raises(ValueError, match=r"out: .*run lies inside the data, .* give another --out"):
        train(small(data=str(tmp_path)))
    train(small(data=f"{tmp_path}/*.txt"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "missing"}, "data: there is no missing"),
        ({"tokenizer": "missing"}, "tokenizer: there is no missing"),
        ({"context": 100_000}, "context: the training data has .* tokens, .* would fit"),
        ({"pattern": "mx"}, "pattern"),
        ({"batch_size": 3, "accumulate": 3, "num_heads": 5}, "5"),
    ],
)
def test_a_mistake_leaves_a_folder_that_can_be_used(small, changes, message):
    with pytest.raises(ValueError, match=message):
        train(small(**changes))
    train(small(steps=1))


def test_fsdp_is_refused(small, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="ACCELERATE_USE_FSDP: accelerate's FSDP is not"):
        train(small())


def test_a_batch_that_processes_cannot_share_is_refused(small, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="batch_size: 2 is not possible with 3 processes"):
        train(small())


@pytest.mark.parametrize("name", ["steps", "context", "keep", "learning_rate", "eps", "threads"])
def test_sizes_are_positive(small, name):
    with pytest.raises(ValueError, match=f"^{name}: 0 is not possible, it must be "):
        train(small(**{name: 0}))


def test_a_damaged_checkpoint_is_one_line(small):
    arguments = small(save_every=4, steps=12, keep=3)
    train(arguments)
    path = arguments.out / "checkpoint-000012"
    path.rename(arguments.out / "gone")
    optimizer = arguments.out / "checkpoint-000008" / "optimizer.safetensors"
    optimizer.write_bytes(optimizer.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"000008/optimizer.safetensors is damaged"):
        train(replace(arguments, resume=True))


def test_importing_the_package_does_not_load_the_engine():
    code = "import exlstm.train, exlstm.cli, sys; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
