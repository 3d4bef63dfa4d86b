"""What a run may be told beside its schedule: z-loss, precision, compilation, checkpointing."""

import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from exlstm.models import XLSTMConfig, XLSTMLanguageModel
from exlstm.testing import TOLERANCES
from exlstm.train import train
from exlstm.train.checkpoint import read_tensors
from exlstm.train.loss import WithLoss
from exlstm.train.metrics import read_metrics


def losses(result):
    return [line["loss"] for line in read_metrics(result.metrics)]


def both(small, changes, **common):
    """The results of a run without `changes` and of one with them."""
    plain = small(**common)
    other = replace(plain, out=plain.out.with_name("other"), **changes)
    return train(plain), train(other)


def test_the_z_loss_adds_its_gradient_and_not_its_value():
    torch.manual_seed(0)
    model = XLSTMLanguageModel(XLSTMConfig(vocab_size=11, d_model=16, pattern="ms", num_heads=2))
    model.double()
    tokens = torch.randint(11, (2, 9))
    batch = (tokens[:, :-1], tokens[:, 1:], torch.zeros(2, 8, dtype=torch.bool))
    parameters = list(model.parameters())

    logits = model(tokens[:, :-1])[0].double()
    cross_entropy = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    log_z = logits.exp().sum(-1).log()
    wanted = torch.autograd.grad(cross_entropy + 0.3 * (log_z**2).mean(), parameters)

    plain, penalised = WithLoss(model), WithLoss(model, z_loss=0.3)
    assert torch.equal(penalised(*batch)["loss"], plain(*batch)["loss"])
    found = torch.autograd.grad(penalised(*batch)["loss"], parameters)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)  # the logits are float32
    unpenalised = torch.autograd.grad(plain(*batch)["loss"], parameters)
    assert not torch.allclose(found[-1], unpenalised[-1], rtol=0.1)


def test_a_run_with_a_z_loss_reports_the_cross_entropy(small):
    plain, penalised = map(losses, both(small, {"z_loss": 1.0}, steps=3))
    assert penalised[0] == plain[0]
    assert penalised[1:] != plain[1:]


@pytest.mark.parametrize("mode", ["cheap", "blocks"])
def test_checkpointing_reaches_the_model_and_changes_no_bit(small, monkeypatch, mode):
    asked = []
    original = XLSTMLanguageModel.__init__

    def build(self, config, *, activation_checkpointing=None):
        asked.append(activation_checkpointing)
        original(self, config, activation_checkpointing=activation_checkpointing)

    monkeypatch.setattr(XLSTMLanguageModel, "__init__", build)
    changes = {"activation_checkpointing": mode}
    plain, saving = both(small, changes, pattern="msMS", steps=3, dropout=0.1)
    assert [one for one in asked if one is not None] == [mode]
    assert losses(plain) == losses(saving)
    one, other = ((r.checkpoint / "model.safetensors").read_bytes() for r in (plain, saving))
    assert one == other


def test_bfloat16_is_close_and_keeps_its_weights_in_float32(small):
    plain, rounded = both(small, {"precision": "bfloat16"}, steps=5)
    limit = TOLERANCES[torch.bfloat16].cap
    assert losses(rounded) == pytest.approx(losses(plain), rel=limit)
    assert losses(rounded) != losses(plain)
    assert rounded.validation_loss == pytest.approx(plain.validation_loss, rel=limit)
    for name in ("model.safetensors", "optimizer.safetensors"):
        kinds = {tensor.dtype for tensor in read_tensors(rounded.checkpoint / name).values()}
        assert kinds == {torch.float32}
    # The next run of the same process is not touched by it.
    again = small(steps=5)
    assert losses(train(replace(again, out=again.out.with_name("again")))) == losses(plain)


@pytest.mark.compile
@pytest.mark.slow
def test_a_compiled_run_computes_the_same(small):
    torch.compiler.reset()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    plain, compiled = both(small, {"compile": True}, dropout=0.0, steps=3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before
    limit = TOLERANCES[torch.float32].cap
    assert losses(compiled) == pytest.approx(losses(plain), rel=limit)
    assert compiled.validation_loss == pytest.approx(plain.validation_loss, rel=limit)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"z_loss": -1.0}, "z_loss: -1.0 is not possible, it must be 0 or a positive number"),
        ({"precision": "float16"}, "precision: float16 is not .* one of float32, bfloat16"),
        ({"activation_checkpointing": "all"}, "activation_checkpointing: all is .* none, cheap"),
        ({"compile": True, "sharding": "fsdp"}, "compile: True is .* off with --sharding fsdp"),
        (
            {"carry_state": True, "spike_factor": 2.0},
            "carry_state: True is .* off with --ramp-from",
        ),
        (
            {"carry_state": True, "batch_size": 4, "ramp_from": 1, "ramp_steps": 2},
            "carry_state: True is not possible, it must be off with --ramp-from or --spike-factor",
        ),
    ],
)
def test_what_cannot_be_is_refused(small, changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        small(**changes).check()


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "wsd"}, {"decay_share": 0.5}, {"z_loss": 1e-4}, {"spike_factor": 5.0},
        {"precision": "bfloat16"}, {"compile": True}, {"ramp_from": 1, "ramp_steps": 1},
    ],
)  # fmt: skip
def test_a_run_goes_on_with_the_options_it_began_with(small, changes):
    train(small(steps=1))
    name = next(iter(changes))
    with pytest.raises(ValueError, match=f"^{name}: .* is not what the run .* began with"):
        train(small(steps=1, resume=True, **changes))


def test_a_run_older_than_an_option_has_its_default(small):
    arguments = small(steps=1)
    train(arguments)
    path = arguments.out / "run.json"
    run = json.loads(path.read_text())
    for part in ("settings", "arguments"):
        for name in ("schedule", "z_loss", "precision", "compile"):
            del run[part][name]
    path.write_text(json.dumps(run))
    train(replace(arguments, resume=True))
    with pytest.raises(ValueError, match=r"schedule: 'wsd' is not what .* began with, 'cosine'"):
        train(replace(arguments, resume=True, schedule="wsd"))
