"""The same weights in NX-AI's `xlstm` package (Apache-2.0) give the same logits."""

import pytest
import torch

from exlstm.models import XLSTMConfig, XLSTMLanguageModel

pytest.importorskip(
    "xlstm", reason="needs `pip install xlstm==2.0.6` (in an environment of its own)"
)

VOCABULARY, WIDTH, HEADS, LENGTH = 50, 64, 4, 40


def theirs(pattern: str) -> torch.nn.Module:
    from xlstm import (
        FeedForwardConfig,
        mLSTMBlockConfig,
        mLSTMLayerConfig,
        sLSTMBlockConfig,
        sLSTMLayerConfig,
        xLSTMLMModel,
        xLSTMLMModelConfig,
    )

    config = xLSTMLMModelConfig(
        vocab_size=VOCABULARY,
        embedding_dim=WIDTH,
        num_blocks=len(pattern),
        context_length=LENGTH,
        slstm_at=[index for index, letter in enumerate(pattern) if letter == "s"],
        mlstm_block=mLSTMBlockConfig(mlstm=mLSTMLayerConfig(num_heads=HEADS)),
        slstm_block=sLSTMBlockConfig(
            slstm=sLSTMLayerConfig(backend="vanilla", num_heads=HEADS),
            feedforward=FeedForwardConfig(proj_factor=1.3, act_fn="gelu"),
        ),
    )
    return xLSTMLMModel(config)


def copy_into(ours: XLSTMLanguageModel, model: torch.nn.Module) -> None:
    """Their names: norms hold w - 1, and in the sLSTM layer `fgate` feeds the input gate."""
    weights = {
        "token_embedding.weight": ours.embedding.weight,
        "lm_head.weight": ours.head.weight,
        "xlstm_block_stack.post_blocks_norm.weight": ours.stack.norm.weight - 1,
    }
    for index, block in enumerate(ours.stack.blocks):
        mixer, name = block.mixer, f"xlstm_block_stack.blocks.{index}."
        weights[name + "xlstm_norm.weight"] = block.norm.weight - 1
        weights[name + "xlstm.conv1d.conv.weight"] = mixer.conv.weight[:, None]
        weights[name + "xlstm.conv1d.conv.bias"] = mixer.conv.bias
        if block.mlp is None:
            weights[name + "xlstm.learnable_skip"] = mixer.skip
            weights[name + "xlstm.proj_up.weight"] = mixer.up.weight
            weights[name + "xlstm.proj_down.weight"] = mixer.down.weight
            for letter in "qkv":
                weights[name + f"xlstm.{letter}_proj.weight"] = getattr(mixer, letter).weight
            cell = name + "xlstm.mlstm_cell."
            for gate, rows in (("igate", slice(HEADS)), ("fgate", slice(HEADS, None))):
                weights[cell + gate + ".weight"] = mixer.gates.weight[rows]
                weights[cell + gate + ".bias"] = mixer.gates.bias[rows]
            weights[cell + "outnorm.weight"] = mixer.norm.weight - 1
        else:
            w_i, w_f = mixer.if_gates.weight.chunk(2, dim=1)
            w_z, w_o = mixer.zo_gates.weight.chunk(2, dim=1)
            for gate, weight in (("fgate", w_i), ("igate", w_f), ("zgate", w_z), ("ogate", w_o)):
                weights[name + f"xlstm.{gate}.weight"] = weight
            cell = name + "xlstm.slstm_cell."
            weights[cell + "_recurrent_kernel_"] = mixer.r.permute(0, 2, 3, 1).flatten(1, 2)
            weights[cell + "_bias_"] = mixer.bias.permute(1, 0, 2).flatten()
            weights[name + "xlstm.group_norm.weight"] = mixer.norm.weight - 1
            weights[name + "ffn_norm.weight"] = block.mlp_norm.weight - 1
            both = torch.cat((block.mlp.gate.weight, block.mlp.up.weight))
            weights[name + "ffn.proj_up.weight"] = both
            weights[name + "ffn.proj_down.weight"] = block.mlp.down.weight
    model.load_state_dict(weights, strict=True)


@pytest.mark.parametrize("pattern", ["mm", "ss", "msm"])
def test_logits_equal_those_of_the_authors_package(pattern: str) -> None:
    torch.manual_seed(0)
    config = XLSTMConfig(vocab_size=VOCABULARY, d_model=WIDTH, pattern=pattern, num_heads=HEADS)
    ours = XLSTMLanguageModel(config)
    with torch.no_grad():  # off the initial values, which hide a gate or norm that is not used
        for parameter in ours.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model = theirs(pattern)
    copy_into(ours, model)
    tokens = torch.randint(VOCABULARY, (2, LENGTH))
    with torch.no_grad():
        expected = model(tokens)
        logits, _ = ours(tokens)
    assert expected.abs().max() > 0.1
    assert (logits - expected).abs().max() < 1e-5
