"""transformers' own xLSTM and ours with the same weights: the same logits, both ways."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import exlstm
from exlstm.convert import open_model, write_model
from exlstm.models import XLSTMLanguageModel, save_model

transformers = pytest.importorskip("transformers")

SMALL = {"vocab_size": 31, "hidden_size": 128, "num_hidden_layers": 2, "num_heads": 2}
OPTIONS = [
    {},
    {"num_heads": 4, "qk_dim_factor": 1.0, "ffn_proj_factor": 1.7, "gate_soft_cap": 0.5},
    {"hidden_size": 192, "num_heads": 3, "num_hidden_layers": 1, "qk_dim_factor": 1.0},
    {"tie_word_embeddings": True},  # it ties nothing there
    {"ffn_round_up_to_multiple_of": 7, "output_logit_soft_cap": 2.5, "num_hidden_layers": 3},
]


def theirs(fields: dict, shake: Callable[[torch.nn.Module], None]) -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.xLSTMConfig(**SMALL | fields, autocast_kernel_dtype="float32")
    model = transformers.xLSTMForCausalLM(config).eval()
    shake(model)
    return model


def assert_same(got: torch.Tensor, want: torch.Tensor) -> None:
    assert want.abs().max() > 0.1
    assert (got - want).abs().max() <= 2e-5 * want.abs().max()


@torch.no_grad()
def assert_same_model(ours: XLSTMLanguageModel, model: torch.nn.Module) -> None:
    """In one call, and in pieces with the memory handed on: a chunk and more, some, one token."""
    tokens = torch.randint(31, (2, 90))
    assert_same(ours(tokens)[0], model(tokens, use_cache=False).logits)
    state, cache = None, None
    for piece in tokens.split((67, 22, 1), dim=1):
        logits, state = ours(piece, state)
        output = model(piece, cache_params=cache, use_cache=True)
        cache = output.cache_params
        assert_same(logits, output.logits)


@pytest.mark.parametrize("fields", OPTIONS)
@pytest.mark.parametrize("max_shard_size", ["5GB", "50KB"])
def test_their_model_is_ours(shake, tmp_path: Path, fields: dict, max_shard_size: str) -> None:
    model = theirs(fields, shake)
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (max_shard_size == "50KB")
    assert_same_model(exlstm.load(tmp_path), model)

    write_model(tmp_path / "back", open_model(tmp_path), "hf")
    back = load_file(tmp_path / "back" / "model.safetensors")
    want = model.state_dict()
    assert back.keys() == want.keys()
    assert all(torch.equal(back[name], want[name]) for name in want)


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": 63, "num_heads": 3, "qk_dim_factor": 1 / 3, "ffn_proj_factor": 0.3},
        {"hidden_size": 55, "num_heads": 11, "qk_dim_factor": 0.8, "num_hidden_layers": 1},
    ],
)
def test_odd_sizes(shake, tmp_path: Path, fields: dict) -> None:
    """Their cache takes multiples of 64 only, so in one call."""
    model = theirs(fields, shake)
    model.save_pretrained(tmp_path)
    ours, tokens = exlstm.load(tmp_path), torch.randint(31, (3, 71))
    with torch.no_grad():
        assert_same(ours(tokens)[0], model(tokens, use_cache=False).logits)


@pytest.mark.parametrize("shard_bytes", [10**9, 50_000])
@pytest.mark.parametrize(
    "fields", [{}, {"d_qk": 128, "d_ff": 77, "gate_soft_cap": 3.0}, {"tie_embeddings": True}]
)
def test_our_model_is_theirs(make, tmp_path: Path, fields: dict, shard_bytes: int) -> None:
    sizes = {"vocab_size": 31, "d_model": 128, "pattern": "MM", "num_heads": 2}
    ours = make(**sizes, **fields, logit_soft_cap=30.0)
    save_model(tmp_path, ours)
    write_model(tmp_path / "hf", open_model(tmp_path), "hf", shard_bytes=shard_bytes)
    model, report = transformers.xLSTMForCausalLM.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert_same_model(ours, model.eval())


def test_a_configuration_of_defaults_only(shake, tmp_path: Path) -> None:
    """Fields that are not written have transformers' defaults."""
    model = theirs({}, shake)
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "xlstm"}')
    assert_same_model(exlstm.load(tmp_path), model)
