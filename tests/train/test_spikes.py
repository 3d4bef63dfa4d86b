"""Steps that are not applied: which ones, and what is left of them."""

import json
import math
from dataclasses import replace

import pytest
import torch
from launching import finish, start

from exlstm.models import load_model
from exlstm.train import TrainArguments, spikes, train
from exlstm.train.loss import WithLoss
from exlstm.train.metrics import read_metrics
from exlstm.train.run_folder import resumed_arguments
from exlstm.train.spikes import WINDOW, SpikeGuard
from exlstm.train.trainer import LanguageModelTrainer


def filled(factor=4.0):
    guard = SpikeGuard(factor)
    for number in range(WINDOW):
        assert guard.judge(3.0, 1.0 + number % 2) is None
    return guard


def test_a_norm_above_the_factor_times_the_median_is_a_spike():
    assert filled().judge(3.0, 6.0) is None
    reason = filled().judge(3.0, 6.01)
    assert reason == f"the gradient norm is 6.01, the median of the last {WINDOW} is 1.5"


def test_no_spikes_before_there_is_something_to_compare_with():
    guard = SpikeGuard(2.0)
    for number in range(WINDOW):
        assert guard.judge(3.0, 10.0**number) is None
    assert guard.judge(3.0, 10.0**WINDOW) is not None


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (3.0, math.nan)])
def test_what_is_not_finite_is_always_a_spike(loss, norm):
    assert SpikeGuard(2.0).judge(loss, norm) is not None
    assert filled().judge(loss, norm) is not None


def test_skipped_steps_are_counted_and_do_not_move_the_median():
    guard = filled()
    norms = guard.memory["norms"]
    for number in range(3):
        assert guard.judge(3.0, 100.0)
        assert guard.skipped_in_a_row == number + 1
    assert guard.memory["norms"] == norms
    assert guard.judge(3.0, 2.5) is None
    assert guard.skipped_in_a_row == 0
    assert guard.memory["norms"] == [*norms[1:], 2.5]


def test_the_memory_is_json():
    guard, other = filled(), SpikeGuard(4.0)
    guard.judge(3.0, 1 / 3)
    other.memory = json.loads(json.dumps(guard.memory))
    assert other.memory == guard.memory


@pytest.fixture
def spoil(monkeypatch):
    """Multiply the gradient, or the loss, of some steps."""
    monkeypatch.setattr(spikes, "WINDOW", 3)

    def spoiled(steps, factor, what="gradient"):
        step_of, forward = LanguageModelTrainer.training_step, WithLoss.forward
        now = [0]

        def training_step(self, model, inputs, *rest):
            now[0] = self.state.global_step + 1
            loss = step_of(self, model, inputs, *rest)
            if what == "gradient" and now[0] in steps:
                for parameter in model.parameters():
                    parameter.grad.mul_(factor)
            return loss

        def with_loss(self, *args, **kwargs):
            loss = forward(self, *args, **kwargs)["loss"]
            return {"loss": loss * factor if what == "loss" and now[0] in steps else loss}

        monkeypatch.setattr(LanguageModelTrainer, "training_step", training_step)
        monkeypatch.setattr(WithLoss, "forward", with_loss)

    return spoiled


def contents(checkpoint, *names):
    names = names or ("model.safetensors", "optimizer.safetensors")
    return [(checkpoint / name).read_bytes() for name in names]


@pytest.mark.parametrize(
    ("what", "factor"), [("gradient", 1e3), ("gradient", math.nan), ("loss", math.nan)]
)
def test_a_skipped_step_changes_nothing_and_the_run_goes_on(small, spoil, capsys, what, factor):
    spoil({7}, factor, what)
    arguments = small(spike_factor=10.0, save_every=1, keep=9, warmup_steps=10)
    result = train(arguments)
    before, at, after = (contents(arguments.out / f"checkpoint-{n:06d}") for n in (6, 7, 8))
    assert before == at
    assert all(one != other for one, other in zip(at, after, strict=True))

    lines = read_metrics(result.metrics)
    assert [line["step"] for line in lines if line.get("skipped")] == [7]
    assert all(line["skipped"] is True for line in lines if "skipped" in line)
    rates = [line["learning_rate"] for line in lines]
    assert rates == pytest.approx([1e-4 * step for step in range(1, 11)])
    skipped = lines.pop(6)
    assert (skipped["loss"] is None) == (skipped["bits_per_byte"] is None) == (what == "loss")
    assert (skipped["grad_norm"] is None) == math.isnan(factor)
    assert all(math.isfinite(line[name]) for line in lines for name in ("loss", "grad_norm"))
    assert "step 7 is skipped: the " in capsys.readouterr().out
    assert math.isfinite(result.train_loss)
    assert result.picture.read_bytes().startswith(b"\x89PNG")


def test_the_data_goes_on_behind_a_skipped_step(small, spoil):
    """Skipped from the first step on, the losses are those of the first weights."""
    changes = {"dropout": 0.0, "steps": 5, "warmup_steps": 0}
    still = small(learning_rate=1e-30, **changes)
    expected = read_metrics(train(replace(still, out=still.out.with_name("still"))).metrics)
    spoil(set(range(1, 6)), math.nan)
    lines = read_metrics(train(small(spike_factor=10.0, **changes)).metrics)
    assert [line["loss"] for line in lines] == [line["loss"] for line in expected]
    assert len({line["loss"] for line in lines}) == 5


def test_what_the_guard_remembers_survives_a_resume(small, spoil, train_up_to):
    spoil({6, 8}, 1e3)
    changes = {"spike_factor": 10.0, "save_every": 6}
    whole = train(small(**changes))
    arguments = small(**changes)
    arguments = replace(arguments, out=arguments.out.with_name("again"))
    train_up_to(7, arguments)
    again = train(replace(arguments, resume=True))
    names = [path.name for path in whole.checkpoint.iterdir()]
    assert contents(again.checkpoint, *names) == contents(whole.checkpoint, *names)
    skipped = [line["step"] for line in read_metrics(again.metrics) if line.get("skipped")]
    assert skipped == [6, 8]


def test_too_many_skipped_steps_stop_the_run(small, spoil):
    spoil({5, 6, 7, 8}, math.nan)
    arguments = small(spike_factor=10.0, spike_limit=3)
    message = (
        "the gradient norm is nan at step 7, which was not applied, like the 2 before it; "
        "the last checkpoint is .*-000004; a lower --learning-rate may help"
    )
    with pytest.raises(FloatingPointError, match=message):
        train(arguments)
    lines = read_metrics(arguments.out / "metrics.jsonl")
    assert [line["step"] for line in lines if line.get("skipped")] == [5, 6]
    assert lines[-1]["step"] == 6
    resumed = train(replace(resumed_arguments(arguments.out), spike_limit=5))
    assert resumed.steps == 10
    assert all(torch.isfinite(value).all() for value in load_model(resumed.checkpoint).parameters())


def test_a_run_of_skipped_steps_alone_ends(small, spoil):
    spoil({1, 2}, math.nan)
    result = train(small(spike_factor=10.0, steps=2))
    assert math.isnan(result.train_loss)
    assert math.isfinite(result.validation_loss)


@pytest.mark.parametrize("factor", [-1.0, 0.5, 1.0, math.inf, math.nan])
def test_a_factor_up_to_one_is_refused(small, factor):
    with pytest.raises(ValueError, match=r"^spike_factor: .* must be 0 or a number above 1"):
        small(spike_factor=factor).check()


def test_a_limit_of_zero_is_refused(small):
    with pytest.raises(ValueError, match=r"^spike_limit: 0 is not possible, it must be at least 1"):
        small(spike_limit=0).check()


def one_of_two(rank, arguments):
    """The loss of process 1 is not finite in its third step, though its gradient is."""
    forward, calls = WithLoss.forward, iter(range(1, 1000))

    def with_loss(self, *args, **kwargs):
        loss = forward(self, *args, **kwargs)["loss"]
        spoiled = rank == 1 and self.training and next(calls) == 3
        return {"loss": loss + math.nan if spoiled else loss}

    WithLoss.forward = with_loss
    train(TrainArguments.from_dict(arguments))


def test_all_processes_skip_the_same_steps(small, processes):
    arguments = small(spike_factor=10.0, steps=5)
    assert finish(start(processes, one_of_two, arguments.to_dict())) == [0, 0]
    lines = read_metrics(arguments.out / "metrics.jsonl")
    assert [line["step"] for line in lines if line.get("skipped")] == [3]
