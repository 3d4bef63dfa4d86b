import json
import math
import time
from dataclasses import fields

import pytest
import torch
from stand_in import LastNumber, LastToken, short_run

from exlstm.experiments import train
from exlstm.experiments.run import evaluate, learning_rate


def numbers(result):
    evaluations = [{**one, "cpu_seconds": None} for one in result["evaluations"]]
    return {**result, "evaluations": evaluations, "cpu_seconds": None}


def test_a_run_gives_the_same_numbers_again():
    run = short_run(steps=20, eval_every=10)
    first = numbers(train(run, LastToken())[1])
    torch.manual_seed(99)
    torch.rand(3)
    assert numbers(train(run, LastToken())[1]) == first
    assert numbers(train(short_run(steps=20, eval_every=10, seed=1), LastToken())[1]) != first
    assert json.loads(json.dumps(first)).keys() == first.keys()


def test_the_identity_is_of_all_fields_and_stays():
    run = short_run()
    assert run.identity == short_run().identity == "49aa530be7600a71"
    other = {"task": "a", "model": "s", "lengths": (2, 7), "test_lengths": (6, 13), "warmup": 0.2}
    for field in fields(run):
        value = other.get(field.name) or (getattr(run, field.name) or 0) / 2 + 1
        assert short_run(**{field.name: value}).identity != run.identity


def test_the_schedule():
    run = short_run(steps=100, lr=1e-2)
    rates = [learning_rate(run, step) for step in range(101)]
    assert rates[:10] == pytest.approx([1e-3 * n for n in range(1, 11)])
    assert max(rates) == rates[9] == rates[10] == 1e-2
    assert rates[55] == pytest.approx((1e-2 + 1e-5) / 2)
    assert rates[100] == pytest.approx(1e-5)
    assert sorted(rates[10:], reverse=True) == rates[10:]
    assert learning_rate(short_run(lr=1e-6, warmup=0.0), 149) == pytest.approx(1e-6)


def test_the_optimizer_is_told_the_schedule(monkeypatch):
    told = []

    class Spy(torch.optim.AdamW):
        def step(self, *args, **kwargs):
            told.append([group["lr"] for group in self.param_groups])
            return super().step(*args, **kwargs)

    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    run = short_run(steps=20, stop_at=None)
    train(run, LastToken())
    assert told == [[learning_rate(run, step)] * 2 for step in range(20)]


def test_the_gradient_is_clipped(monkeypatch):
    norms = []
    clip = torch.nn.utils.clip_grad_norm_

    def spy(parameters, limit):
        parameters = list(parameters)
        norm = clip(parameters, limit)
        norms.append(float(clip(parameters, 1e9)))
        return norm

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    train(short_run(steps=5, clip=1e-3), LastToken())
    assert norms == pytest.approx([1e-3] * 5, rel=1e-2)


class Spied(LastToken):
    """Notes the batches it is asked for."""

    def __init__(self):
        super().__init__()
        object.__setattr__(self, "calls", [])

    def batch(self, seed, step, batch_size, lengths, *, test=False):
        self.calls.append((seed, step, batch_size, lengths, test))
        return super().batch(seed, step, batch_size, lengths, test=test)


def test_the_test_set_is_apart_and_is_seen_once_at_the_end():
    task = Spied()
    train(short_run(steps=4, eval_every=2, eval_rows=40, seed=7, stop_at=1.1), task)
    steps = [(7, step, 32, (2, 6), False) for step in range(4)]
    validation = [(0, 0, 32, (2, 6), True), (0, 1, 8, (2, 6), True)]
    validation += [(1, 0, 32, (6, 12), True), (1, 1, 8, (6, 12), True)]
    test = [(2, 0, 32, (6, 12), True), (2, 1, 8, (6, 12), True)]
    assert task.calls == [*steps[:2], *validation, *steps[2:], *validation, *test]
    # The rows of the test's lengths are for stopping alone.
    task.calls.clear()
    train(short_run(steps=4, eval_every=2, eval_rows=40, seed=7, stop_at=None), task)
    assert task.calls == [*steps[:2], *validation[:2], *steps[2:], *validation[:2], *test]


def test_the_seconds_of_a_curve_are_those_of_training(monkeypatch):
    def slow(*arguments):
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
        return evaluate(*arguments)

    monkeypatch.setattr("exlstm.experiments.run.evaluate", slow)
    _, result = train(short_run(steps=4, eval_every=1, stop_at=None), LastToken())
    seconds = [one["cpu_seconds"] for one in result["evaluations"]]
    assert seconds == sorted(seconds)
    assert 0 < seconds[-1] < result["cpu_seconds"] - 5 * 0.2


def test_a_run_stops_when_it_is_solved_or_not_at_all():
    _, solved = train(short_run(), LastToken())
    assert solved["solved"]
    assert solved["steps"] == solved["evaluations"][-1]["step"] < 150
    assert solved["evaluations"][-1]["validation_long"]["scaled_accuracy"] >= 0.99
    _, whole = train(short_run(stop_at=None), LastToken())
    assert (whole["steps"], whole["solved"]) == (150, False)
    assert [one["step"] for one in whole["evaluations"]] == [25, 50, 75, 100, 125, 150]


class Answers(torch.nn.Module):
    """Right in rows below a length, and else token 1."""

    def __init__(self, below):
        super().__init__()
        self.below = below

    def forward(self, inputs, asked):
        told = torch.where(asked.nonzero()[:, 1] + 1 < self.below, inputs[asked], 1)
        return torch.nn.functional.one_hot(told, 4) * 50.0


def test_evaluation_counts_answers_by_length():
    run = short_run(eval_rows=400)
    scores = evaluate(Answers(100), LastToken(), run, 0, (6, 12))
    assert (scores["accuracy"], scores["scaled_accuracy"]) == (1.0, 1.0)
    assert scores["loss"] < 1e-6
    scores = evaluate(Answers(10), LastToken(), run, 0, (6, 12))
    buckets = {part["lengths"]: part["accuracy"] for part in scores["by_length"]}
    assert list(buckets) == [(6, 7), (8, 9), (10, 10), (11, 12)]
    assert [accuracy == 1.0 for accuracy in buckets.values()] == [True, True, False, False]
    assert 0.2 < buckets[10, 10] < 0.47
    assert scores["scaled_accuracy"] == pytest.approx(1.5 * scores["accuracy"] - 0.5)


class Shorter(LastToken):
    """Makes no rows of even length."""

    def draw(self, rng, lengths):
        return super().draw(rng, lengths - 1 + lengths % 2)


def test_rows_shorter_than_asked_for_are_counted():
    def lengths(task, *asked):
        run = short_run(eval_rows=100)
        scores = evaluate(Answers(100), task, run, 0, asked)
        assert scores["accuracy"] == 1.0
        return [part["lengths"] for part in scores["by_length"]]

    assert lengths(Shorter(), 12, 12) == lengths(LastToken(), 12, 12) == [(12, 12)]
    assert lengths(LastToken(), 11, 12) == [(11, 11), (12, 12)]
    assert lengths(Shorter(), 11, 12) == [(11, 11)]


def test_answers_that_are_numbers_have_an_error():
    run = short_run(task="last-number", eval_every=150)
    _, result = train(run, LastNumber())
    variance = 1 / 12
    assert result["test"]["mse"] < variance / 10
    assert result["test"]["mse"] == result["test"]["loss"]
    assert "accuracy" not in result["test"]
    assert not result["solved"]


def test_a_loss_that_is_not_finite_ends_the_run():
    with pytest.raises(FloatingPointError, match="at step "):
        train(short_run(lr=1e30), LastToken())


@pytest.mark.parametrize(
    ("field", "value"),
    [(name, 0) for name in ("steps", "batch_size", "eval_every", "eval_rows", "lr", "clip")]
    + [("seed", -1), ("final_lr", -1e-5), ("weight_decay", -0.1), ("warmup", 10), ("lr", math.nan)],
)
def test_impossible_fields_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} must .*, got {value}"):
        short_run(**{field: value})


def test_a_result_says_what_it_was_made_with():
    _, result = train(short_run(model="mamba", steps=1), LastToken(), threads=1)
    assert result["versions"]["torch"] == torch.__version__
    assert result["threads"] == 1
    assert "kernels" in result["note"]
    assert result["num_params"] > 1000
