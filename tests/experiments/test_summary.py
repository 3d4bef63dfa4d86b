import pytest

from exlstm.experiments import summarize
from exlstm.experiments.summary import table


def record(lr, validation, test, *, model="ms", loss=1.0, seed=0, **fields):
    def scores(value):
        return {"loss": loss, "accuracy": value, "scaled_accuracy": value}

    result = {
        "validation": scores(validation),
        "test": {**scores(test), "by_length": [{"lengths": (6, 9), **scores(test)}]},
        "solved": test == 1.0,
        "num_params": 1234,
        "cpu_seconds": 2.0,
        "note": "",
        **fields,
    }
    return {"run": {"model": model, "lr": lr, "seed": seed}, "result": result}


def failed(lr, model="ms"):
    return {"run": {"model": model, "lr": lr, "seed": 0}, "error": "FloatingPointError: nan"}


def test_the_test_set_does_not_choose():
    (row,) = summarize([record(1e-2, 0.8, 0.9), record(1e-3, 0.9, 0.2), record(1e-4, 0.7, 0.95)])
    assert (row.lr, row.validation, row.test) == (1e-3, 0.9, 0.2)


def test_median_and_spread_over_seeds():
    one = [record(1e-2, 0.9, test, seed=seed) for seed, test in enumerate((0.1, 1.0, 0.7))]
    # Of another learning rate a lucky seed is better, but not the median.
    other = [record(1e-3, value, 0.0, seed=seed) for seed, value in enumerate((1.0, 0.5, 0.4))]
    (row,) = summarize(one + other)
    assert (row.lr, row.test, row.test_min, row.test_max) == (1e-2, 0.7, 0.1, 1.0)
    assert (row.num_runs, row.num_solved) == (3, 1)
    assert row.by_length == {(6, 9): 0.7}


def test_the_loss_decides_among_the_perfect():
    (row,) = summarize([record(1e-2, 1.0, 0.9, loss=0.2), record(1e-3, 1.0, 0.1, loss=0.1)])
    assert row.lr == 1e-3


def test_a_learning_rate_with_a_failed_run_is_the_last_to_be_chosen():
    records = [record(1e-2, 1.0, 1.0), failed(1e-2), record(1e-3, 0.5, 0.4)]
    (row,) = summarize(records)
    assert (row.lr, row.failed) == (1e-3, {1e-2: 1})
    (row,) = summarize(records[:2])
    assert row.lr == 1e-2
    assert summarize([failed(1e-2)]) == []


def test_numbers_are_compared_by_their_error():
    def mse(lr, validation, test):
        made = record(lr, 0, 0)
        made["result"]["validation"] = {"loss": validation, "mse": validation}
        by_length = [{"lengths": (6, 9), "loss": test, "mse": test}]
        made["result"]["test"] = {"loss": test, "mse": test, "by_length": by_length}
        return made

    (row,) = summarize([mse(1e-2, 0.5, 0.1), mse(1e-3, 0.2, 0.3)])
    assert (row.lr, row.validation, row.test) == (1e-3, 0.2, 0.3)


def test_the_table():
    records = [
        record(1e-3, 0.75, 1.0),
        failed(1e-2),
        record(1e-2, 0.5, 0.5, model="mamba", note="N"),
    ]
    lines = table(summarize(records)).splitlines()
    assert lines[0].split() == [
        *("model", "parameters", "lr", "validation", "test", "from", "to", "6-9"),
        *("seeds", "solved", "CPU-s/run"),
    ]
    assert lines[1].split() == ["ms", "1,234", "0.001", "0.750", *["1.000"] * 4, "1", "1", "2"]
    assert lines[2].split()[:3] == ["mamba", "1,234", "0.01"]
    assert len({len(line) for line in lines[:3]}) == 1
    assert lines[3:] == ["ms: 1 failed at 0.01", "mamba: N"]
    assert table([]) == "no run has a result"


@pytest.mark.parametrize("models", [["b", "a"], ["a", "b"]])
def test_models_stand_in_the_order_they_were_given(models):
    rows = summarize([record(1e-3, 0.5, 0.5, model=model) for model in models])
    assert [row.model for row in rows] == models
