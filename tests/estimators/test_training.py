"""The loop that trains the networks of estimators."""

import pytest
import torch
from torch import nn

from exlstm.estimators import Training, train

X = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([[1.0], [-2.0], [0.5]])


def fit(validation=None, seed=0, progress=None, **changes):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    def loss(rows):
        return (model(X[rows]) - Y[rows]).square().mean()

    settings = {"max_epochs": 40, "batch_size": 16, "learning_rate": 0.1, "weight_decay": 0.0}
    training = Training(**(settings | changes))
    return model, train(model, 64, loss, validation, training, seed=seed, progress=progress)


def test_it_learns_and_ends_in_eval_mode():
    model, lines = fit()
    assert (model(X) - Y).square().mean() < 1e-3
    assert [line["epoch"] for line in lines] == list(range(1, 41))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert not model.training


def test_the_same_seed_gives_the_same_weights():
    (one, lines), (other, again), (third, _) = fit(), fit(), fit(seed=1)
    assert torch.equal(one.weight, other.weight)
    assert not torch.equal(one.weight, third.weight)
    assert lines == again


def test_every_epoch_takes_each_row_once():
    seen = []
    model = nn.Linear(3, 1)

    def loss(rows):
        seen.append(rows)
        return model(X[rows]).square().mean()

    train(model, 64, loss, None, Training(max_epochs=2, batch_size=24), seed=3)
    assert [len(rows) for rows in seen] == [24, 24, 16] * 2
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(64))
    assert not torch.equal(first, second)


def test_the_best_epochs_weights_are_kept_and_patience_ends_it():
    losses = iter([3.0, 1.0, 2.0, float("nan"), 2.0, 0.5])
    weights = []

    def validation():
        assert not torch.is_grad_enabled()
        return next(losses)

    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    def loss(rows):
        return (model(X[rows]) - Y[rows]).square().mean()

    def progress(line):
        weights.append(model.weight.detach().clone())

    lines = train(model, 64, loss, validation, Training(patience=3), seed=0, progress=progress)
    assert len(lines) == 5
    assert torch.equal(model.weight, weights[1])


def test_what_is_not_finite_stops_it():
    model = nn.Linear(3, 1)
    with pytest.raises(FloatingPointError, match="loss nan, gradient norm nan in epoch 1"):
        train(model, 4, lambda rows: model(X[rows]).sum() * torch.nan, None, Training(), seed=0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_epochs", 0, "max_epochs must be at least 1, got 0"),
        ("learning_rate", 0.0, "learning_rate must be above 0, got 0.0"),
        ("weight_decay", -1.0, "weight_decay must not be negative, got -1.0"),
    ],
)
def test_bad_settings_are_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        Training(**{field: value})
