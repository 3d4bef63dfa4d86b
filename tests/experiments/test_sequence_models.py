import math

import pytest
import torch
from stand_in import LastNumber, LastToken, short_run

from exlstm.experiments import build_model, find_task, train
from exlstm.experiments.sequence_models import BASELINES
from exlstm.nn import XLSTMStack
from exlstm.nn.parameter_groups import parameter_groups
from exlstm.testing import assert_agrees

MODELS = ["ms", "M", "xlstm[1:0]", "xlstm[0:1],conv_width=0,recurrent_init=uniform", *BASELINES]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_learns(model):
    _, result = train(short_run(model=model), LastToken())
    assert result["solved"]
    assert result["test"]["accuracy"] > 0.95
    assert result["steps"] < 150
    first, last = result["loss_curve"][0], result["loss_curve"][-1]
    assert first == last or first[1] > last[1]


@pytest.mark.parametrize("model", MODELS)
def test_padding_is_never_seen(model):
    torch.manual_seed(0)
    built = build_model(model, LastToken(), 16).eval()
    tokens = torch.randint(1, 4, (3, 80))
    answers = built(tokens)
    assert answers.shape == (3, 80, 4)
    tokens[:, 70:] = 0
    torch.testing.assert_close(built(tokens)[:, :70], answers[:, :70], rtol=0, atol=0)
    tokens[:, 69] = 0
    assert (built(tokens)[:, 69] != answers[:, 69]).any()


def test_mamba_takes_its_rows_in_parts():
    built = build_model("mamba", LastToken(), 16)
    tokens = torch.randint(1, 4, (35, 9))
    parts = [built(part) for part in (tokens[:16], tokens[16:32], tokens[32:])]
    torch.testing.assert_close(built(tokens), torch.cat(parts), rtol=0, atol=0)


def test_asked_picks_the_answers():
    built = build_model("ms", LastToken(), 16).double()
    tokens = torch.randint(1, 4, (3, 9))
    asked = torch.rand(3, 9) < 0.5
    assert_agrees({"y": built(tokens, asked)}, {"y": built(tokens)[asked]})


def test_numbers_are_read_and_answered():
    assert build_model("s", LastNumber(), 16)(torch.randn(3, 9, 1)).shape == (3, 9, 1)


@pytest.mark.parametrize(
    ("model", "pattern"),
    [
        ("xlstm[1:1]", "ms"),
        ("xlstm[1:0]", "mm"),
        ("xlstm[0:1]", "ss"),
        ("xlstm[2:1]", "mms"),
        ("xlstm[1:1],num_blocks=4", "msms"),
        ("Ms", "Ms"),
    ],
)
def test_the_papers_notation_is_a_pattern(model, pattern):
    built = build_model(model, LastToken(), 16).backbone
    assert str(built) == str(XLSTMStack(16, pattern))


def test_options_reach_the_model():
    def backbone(text):
        return build_model(text, LastToken(), 16).backbone

    assert backbone("s,num_heads=2").blocks[0].mixer.r.shape[0] == 2
    assert backbone("s,recurrent_init=uniform").blocks[0].mixer.r.abs().sum() > 0
    assert backbone("lstm,num_blocks=3").num_layers == 3
    assert len(backbone("llama,num_blocks=3").model.layers) == 3
    assert backbone("mamba,state_size=4").model.layers[0].mixer.A_log.shape[-1] == 4
    assert backbone("rwkv4,d_ff=24").model.blocks[0].feed_forward.key.weight.shape[0] == 24


def test_models_differ_in_their_backbone_only():
    def around(text):
        torch.manual_seed(0)
        names = dict(build_model(text, LastToken(), 16).named_parameters())
        return {name: p.shape for name, p in names.items() if not name.startswith("backbone")}

    assert all(around(model) == around("ms") for model in MODELS)
    assert set(around("ms")) == {"embedding.weight", "head.weight", "head.bias"}


def test_slow_paths_are_marked():
    assert [m for m in MODELS if build_model(m, LastToken(), 16).note] == ["mamba", "rwkv4"]


@pytest.mark.parametrize("model", BASELINES)
def test_matrices_of_baselines_decay_and_nothing_else(model):
    built = build_model(model, LastToken(), 16)
    names = {id(parameter): name for name, parameter in built.named_parameters()}
    decayed, undecayed = (
        {names[id(parameter)] for parameter in group["params"]}
        for group in parameter_groups(built, 0.1)
    )
    assert decayed | undecayed == set(names.values())
    assert not decayed & undecayed
    words = ("norm", "bias", "ln", "embedding", "A_log", "time_", "mixer.D")
    assert undecayed == {name for name in names.values() if any(word in name for word in words)}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("gru", r"there is no model 'gru'; there are: lstm, llama, mamba, rwkv4, xlstm\[a:b\], "),
        ("", "there is no model ''"),
        ("ms,colour=red", "there is no option 'colour'; there are: conv_width, d_ff, d_inner, "),
        ("lstm,num_heads=2", "there is no option 'num_heads'; there are: num_blocks"),
        ("ms,num_heads=two", "num_heads=two must be a whole number"),
        ("ms,num_heads=None", "num_heads=None must be a whole number"),
        ("ms,num_heads=5", "num_heads=5 must be positive and divide"),
        ("ms,num_heads", "'num_heads' must be an option=value"),
        ("ms,num_heads=2,num_heads=4", "'num_heads=4' must be an option=value that is given once"),
        ("xlstm[0:0]", r"a \+ b >= 1"),
        ("xlstm[2:1],num_blocks=4", "multiple of a \\+ b = 3"),
        ("ms,recurrent_init=ones", "recurrent_init"),
        ("ms,num_blocks=4", "there is no option 'num_blocks'"),
    ],
)
def test_mistakes_are_named(model, message):
    with pytest.raises(ValueError, match=message) as error:
        build_model(model, LastToken(), 16)
    assert "\n" not in str(error.value)


def test_the_embedding_begins_larger_where_no_norm_follows():
    task = find_task("text")
    stds = [
        build_model(text, task, 64).embedding.weight.std().item()
        for text in ("ms", "llama", "lstm")
    ]
    small = math.sqrt(2 / (5 * 64))
    assert stds == pytest.approx([small, small, 1.0], rel=0.05)
