"""Which parameters decay."""

import pytest
import torch

from exlstm.models import XLSTMConfig, XLSTMLanguageModel
from exlstm.nn.parameter_groups import parameter_groups
from exlstm.train.optimizer import adamw


@pytest.fixture(params=[False, True], ids=["own head", "tied head"])
def model(request):
    config = XLSTMConfig(
        vocab_size=11, d_model=16, pattern="msMS", num_heads=2, tie_embeddings=request.param
    )
    return XLSTMLanguageModel(config)


def names(model, group):
    of = {id(parameter): name for name, parameter in model.named_parameters()}
    return [of[id(parameter)] for parameter in group["params"]]


def test_every_parameter_is_in_one_group_in_the_order_of_the_model(model):
    decayed, undecayed = (names(model, group) for group in parameter_groups(model, 0.1))
    every = [name for name, _ in model.named_parameters()]
    assert sorted(decayed + undecayed) == sorted(every)
    assert decayed == [name for name in every if name in decayed]
    assert undecayed == [name for name in every if name in undecayed]


def test_matrices_decay_and_nothing_else(model):
    decayed, undecayed = parameter_groups(model, 0.1)
    assert [decayed["weight_decay"], undecayed["weight_decay"]] == [0.1, 0.0]
    decays = names(model, decayed)
    matrices = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert matrices <= set(decays)
    assert "embedding.weight" not in decays
    for name in names(model, undecayed):
        assert not name.endswith("weight") or "norm" in name or name == "embedding.weight"
    assert all(parameter.ndim > 1 for parameter in decayed["params"])


def test_a_step_decays_one_group_only(model):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = adamw(model, learning_rate=0.1, weight_decay=0.5, betas=(0.9, 0.95), eps=1e-5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    decays = names(model, optimizer.param_groups[0])
    for name, parameter in model.named_parameters():
        factor = 0.95 if name in decays else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)
