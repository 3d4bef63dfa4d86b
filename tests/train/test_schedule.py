"""The learning rate and the batch size over time."""

import itertools
import types
from dataclasses import replace

import pytest

from exlstm.data import Windows
from exlstm.train import train
from exlstm.train import trainer as trainer_module
from exlstm.train.metrics import read_metrics
from exlstm.train.schedule import BatchSizes, learning_rate_factor
from exlstm.train.trainer import _Batches


def factors(schedule, **options):
    options = {"steps": 100, "warmup": 10, "min_ratio": 0.1, "decay_steps": 20} | options
    return [
        learning_rate_factor(step, schedule=schedule, **options)
        for step in range(options["steps"] + 1)
    ]


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "exponential"])
def test_the_learning_rate_rises_to_the_peak_and_then_never_again(schedule):
    values = factors(schedule)
    assert values[0] == 0.1
    assert values[9] == values[10] == 1.0
    assert values[:10] == sorted(values[:10])
    assert values[10:] == sorted(values[10:], reverse=True)
    assert factors(schedule, warmup=0)[0] == 1.0


def test_a_cosine_falls_to_the_ratio():
    values = factors("cosine")
    assert values[55] == pytest.approx(0.55)
    assert values[100] == pytest.approx(0.1)


def test_wsd_is_constant_and_then_a_line_to_the_ratio():
    values = factors("wsd")
    assert set(values[10:81]) == {1.0}
    assert values[90] == pytest.approx(0.55)
    assert values[100] == pytest.approx(0.1)
    assert factors("wsd", decay_steps=90)[10:] == pytest.approx(
        [1 - 0.9 * step / 90 for step in range(91)]
    )


def test_the_exponential_reaches_the_ratio_and_cools_down_to_zero():
    values = factors("exponential")
    assert values[45] == pytest.approx(0.1**0.5)
    assert values[80] == pytest.approx(0.1)
    assert values[90] == pytest.approx(0.05)
    assert values[100] == 0.0
    ratios = {round(after / before, 9) for before, after in itertools.pairwise(values[10:81])}
    assert len(ratios) == 1


def test_the_schedule_of_the_7b():
    """3,000 steps of warm-up, 540,000 exponential, at a tenth after 500,000, 7,000 to zero."""
    options = {
        "steps": 550_000, "warmup": 3000, "min_ratio": 0.0819, "decay_steps": 7000,
        "schedule": "exponential",
    }  # fmt: skip
    assert learning_rate_factor(2999, **options) == 1.0
    assert learning_rate_factor(500_000, **options) == pytest.approx(0.1, rel=1e-3)
    assert learning_rate_factor(543_000, **options) == pytest.approx(0.0819)
    assert learning_rate_factor(550_000, **options) == 0.0


def test_a_run_has_the_rates_of_its_schedule(small):
    result = train(small(schedule="wsd", decay_share=0.4, warmup_steps=2, min_lr_ratio=0.0))
    rates = [line["learning_rate"] for line in read_metrics(result.metrics)]
    expected = [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert rates == pytest.approx([0.001 * factor for factor in expected])


@pytest.mark.parametrize(
    "sizes", [BatchSizes(6), BatchSizes(6, 3, 1), BatchSizes(6, 1, 3), BatchSizes(3, 7, 4)]
)
def test_what_lies_before_a_step_is_the_sum_of_the_steps(sizes):
    total = 0
    for step in range(60):
        assert sizes.before(step) == total
        total += sizes.at(step)
    assert sizes.at(10**9) == sizes.first << sizes.doublings


def test_the_ramp_of_the_7b(small):
    arguments = small(batch_size=512, ramp_from=128, ramp_steps=4000, steps=550_000)
    arguments.check()
    sizes = arguments.batches
    at = [sizes.at(step) for step in (0, 1999, 2000, 3999, 4000, 549_999)]
    assert at == [128, 128, 256, 256, 512, 512]


def test_the_samples_of_a_ramp_do_not_depend_on_the_number_of_processes(small, monkeypatch):
    seen = []
    monkeypatch.setattr(Windows, "batch", lambda self, samples: seen.extend(samples) or samples)
    arguments = small(batch_size=48, ramp_from=12, ramp_steps=4)
    for world, accumulate in [(1, 1), (1, 3), (2, 1), (2, 3), (3, 2)]:
        seen.clear()
        for rank in range(world):
            args = types.SimpleNamespace(
                process_index=rank, world_size=world, gradient_accumulation_steps=accumulate
            )
            stub = types.SimpleNamespace(
                args=args,
                arguments=arguments,
                windows=Windows.__new__(Windows),
                state=types.SimpleNamespace(global_step=1),
            )
            batches = iter(_Batches(stub))
            for _ in range(3 * accumulate):
                next(batches)
        # Steps 1, 2 and 3, after 12 samples in step 0.
        assert sorted(seen) == list(range(12, 12 + 12 + 24 + 24))


def test_a_run_with_a_ramp_reports_its_real_speed_and_goes_on_exactly(
    small, monkeypatch, train_up_to
):
    # A clock that moves on by a second between the two looks at it in each step.
    clock = types.SimpleNamespace(perf_counter=itertools.count().__next__)
    monkeypatch.setattr(trainer_module, "time", clock)
    changes = {"batch_size": 8, "ramp_from": 2, "ramp_steps": 4, "steps": 6, "save_every": 3}
    whole = train(small(**changes))
    lines = read_metrics(whole.metrics)
    assert [line["tokens_per_second"] for line in lines] == [32, 32, 64, 64, 128, 128]

    arguments = small(**changes)
    arguments = replace(arguments, out=arguments.out.with_name("again"))
    train_up_to(5, arguments)
    again = train(replace(arguments, resume=True))
    name = "model.safetensors"
    assert (again.checkpoint / name).read_bytes() == (whole.checkpoint / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "wds"}, "schedule: wds is not possible, it must be one of cosine, wsd, exp"),
        ({"decay_share": 0.0}, "decay_share: 0.0 is not possible, it must be above 0 and at most"),
        ({"decay_share": 1.5}, "decay_share: 1.5 is not possible"),
        (
            {"schedule": "wsd", "decay_share": 0.6, "warmup_steps": 5},
            "decay_share: 0.6 is not possible, it must be at most 0.5: the warm-up has the other",
        ),
        ({"schedule": "wsd", "warmup_steps": 10}, "warmup_steps: 10 is not .* be below 10, the"),
        ({"schedule": "exponential", "min_lr_ratio": 0.0}, "min_lr_ratio: 0.0 .* above 0 for an"),
        ({"ramp_steps": 4}, "ramp_steps: 4 is not possible, it must be 0 without --ramp-from"),
        ({"ramp_from": 2, "batch_size": 8}, "ramp_steps: 0 is not .* a multiple of 2, the number"),
        ({"ramp_from": 2, "batch_size": 8, "ramp_steps": 3}, "ramp_steps: 3 .* a multiple of 2"),
        ({"ramp_from": 2, "batch_size": 8, "ramp_steps": 12}, "ramp_steps: 12 .* at most 10"),
        ({"ramp_from": 2, "batch_size": 12, "ramp_steps": 4}, "ramp_from: 2 .* be 12, the batch"),
        ({"ramp_from": 8, "batch_size": 8, "ramp_steps": 4}, "ramp_from: 8 is not possible"),
        ({"ramp_from": 0, "batch_size": 8, "ramp_steps": 4}, "ramp_from: 0 is not possible"),
        (
            {"ramp_from": 2, "batch_size": 8, "ramp_steps": 4, "accumulate": 4},
            "accumulate: 4 is not possible, it must be a divisor of 2",
        ),
    ],
)
def test_what_cannot_be_is_refused(small, changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        small(**changes).check()


def test_the_first_batch_of_a_ramp_must_suit_the_processes(small, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match=r"^ramp_from: 2 is not possible with 4 processes"):
        train(small(batch_size=8, ramp_from=2, ramp_steps=4))
