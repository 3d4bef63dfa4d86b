"""xLSTMs and the models beside them, each between the same embedding and head.

The baselines are PyTorch's and transformers' own, without their embeddings.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from exlstm.experiments.specification import check_options, parse
from exlstm.nn import XLSTMStack, init, xlstm_notation
from exlstm.nn.layers import round_up
from exlstm.nn.stack import LETTERS
from exlstm.shapes import Bool, Float, Int
from exlstm.tasks import Task


class SequenceModel(nn.Module):
    """An answer after every step: embedding, backbone, head.

    Every backbone is causal and rows are padded on the right, so padding is never seen.

    Args:
        embedding: Of tokens or numbers, to (B, T, D).
        backbone: Mixes over time; what it returns begins with (B, T, D).
        head: To the answers, (..., A), or (..., 1) where they are numbers.
        note: What one has to know to compare this model's times with others'.
    """

    def __init__(
        self, embedding: nn.Module, backbone: nn.Module, head: nn.Module, note: str = ""
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.backbone = backbone
        self.head = head
        self.note = note

    def forward(
        self,
        inputs: Int[Tensor, "B T"] | Float[Tensor, "B T X"],
        asked: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "*S A"]:
        """The answers (B, T, A), or (number asked, A) of those asked for alone.

        With a large vocabulary and few questions the head is most of the work.
        """
        x = self.backbone(self.embedding(inputs))[0]
        return self.head(x if asked is None else x[asked])


def build_model(text: str, task: Task, d_model: int = 64) -> SequenceModel:
    """A model for a task, its parameters drawn from torch's global generator.

    Args:
        text: `name,option=value,...` with a name of
            - `lstm`: `torch.nn.LSTM`, without residual branches or norms;
            - `llama`, `mamba`, `rwkv4`: transformers' `LlamaModel`, `MambaModel`, `RwkvModel`;
            - `xlstm[a:b]`: the paper's notation; `num_blocks` is 2, or else one period;
            - a pattern, as `ms`: one letter a block.
            The options of the last two are those of `exlstm.nn.XLSTMStack`.
        task: What is read and answered.
        d_model: Width, D.

    Raises:
        ValueError: There is no such model or option, or the sizes do not fit together.
    """
    name, options = parse(text)
    make: Callable[..., nn.Module]
    if name in BASELINES:
        make = BASELINES[name]
        accepted = _keywords(make)
    else:
        make = partial(XLSTMStack, pattern=_pattern(text, name, options))
        accepted = _keywords(XLSTMStack)
        del accepted["activation_checkpointing"]  # changes no number
    if d_model < 1:
        raise ValueError(f"d_model must be at least 1, got {d_model}")
    check_options(text, options, accepted)

    embedding: nn.Module
    if task.vocab_size:
        embedding = nn.Embedding(task.vocab_size, d_model)
        if name != "lstm":  # it has no norm in front: PyTorch's N(0, 1) teaches it far sooner
            init.small_(embedding.weight, d_model)
    else:
        embedding = nn.Linear(task.num_inputs, d_model)
    backbone = make(d_model, **options)
    head = nn.Linear(d_model, task.vocab_size or 1)
    init.small_(head.weight, d_model)
    nn.init.zeros_(head.bias)
    return SequenceModel(embedding, backbone, head, NOTES.get(name, ""))


def _keywords(make: Callable[..., nn.Module]) -> dict[str, Any]:
    """The options a function takes, with their defaults."""
    parameters = inspect.signature(make).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


def _pattern(text: str, name: str, options: dict[str, Any]) -> str:
    """The letters of an xLSTM; the option `num_blocks` of the paper's notation is taken out."""
    if found := re.fullmatch(r"xlstm\[(\d+):(\d+)\]", name):
        num_mlstm, num_slstm = map(int, found.groups())
        period = max(1, num_mlstm + num_slstm)
        num_blocks = options.pop("num_blocks", period * math.ceil(2 / period))
        check_options(text, {"num_blocks": num_blocks}, {"num_blocks": 2})
        return xlstm_notation(num_mlstm, num_slstm, num_blocks)
    if not name or set(name) - set(LETTERS):
        raise ValueError(
            f"there is no model {name!r}; there are: {', '.join(BASELINES)}, xlstm[a:b], "
            f"and patterns of the letters {', '.join(LETTERS)}"
        )
    return name


class _WithoutEmbedding(nn.Module):
    """A model of transformers on what is embedded already, all rows at once or some at a time."""

    def __init__(self, model: Any, rows: int | None = None) -> None:
        super().__init__()
        model.set_input_embeddings(nn.Identity())
        self.model = model
        self.rows = rows

    def forward(self, x: Float[Tensor, "B T D"]) -> tuple[Float[Tensor, "B T D"]]:
        parts = (x,) if self.rows is None else x.split(self.rows)
        return (torch.cat([self.model(inputs_embeds=one, use_cache=False)[0] for one in parts]),)


# Transformers takes seconds to import: only those models load it that are made of it. Its default
# vocabulary is a large embedding, which is drawn and then dropped, so its size is 1 here.
_NO_VOCABULARY: Mapping[str, Any] = {"vocab_size": 1, "bos_token_id": None, "eos_token_id": None}


def _lstm(d_model: int, *, num_blocks: int = 2) -> nn.Module:
    return nn.LSTM(d_model, d_model, num_blocks, batch_first=True)


def _llama(
    d_model: int, *, num_blocks: int = 2, num_heads: int = 4, d_ff: int | None = None
) -> nn.Module:
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        **_NO_VOCABULARY,
        hidden_size=d_model,
        num_hidden_layers=num_blocks,
        num_attention_heads=num_heads,
        intermediate_size=round_up(8 * d_model / 3) if d_ff is None else d_ff,
        initializer_range=math.sqrt(2 / (5 * d_model)),  # its default is for far larger widths
    )
    return _WithoutEmbedding(LlamaModel(config))


def _mamba(
    d_model: int, *, num_blocks: int = 2, state_size: int = 16, expand: int = 2, conv_width: int = 4
) -> nn.Module:
    from transformers import MambaConfig, MambaModel

    config = MambaConfig(
        **_NO_VOCABULARY,
        hidden_size=d_model,
        num_hidden_layers=num_blocks,
        state_size=state_size,
        expand=expand,
        conv_kernel=conv_width,
    )
    # Its loop over time keeps tensors of all steps and cells: 128 rows at once are 6 times slower.
    return _WithoutEmbedding(MambaModel(config), rows=16)


def _rwkv4(d_model: int, *, num_blocks: int = 2, d_ff: int | None = None) -> nn.Module:
    from transformers import RwkvConfig, RwkvModel

    config = RwkvConfig(
        **_NO_VOCABULARY,
        hidden_size=d_model,
        num_hidden_layers=num_blocks,
        intermediate_size=d_ff,
        rescale_every=0,  # a guard for float16
    )
    return _WithoutEmbedding(RwkvModel(config))


BASELINES: dict[str, Callable[..., nn.Module]] = {
    "lstm": _lstm,
    "llama": _llama,
    "mamba": _mamba,
    "rwkv4": _rwkv4,
}
"""Name -> what makes the backbone from the width and options."""

_LOOP = "without its compiled kernels a loop over time in Python: its seconds are not its speed"
NOTES: dict[str, str] = {"mamba": _LOOP, "rwkv4": _LOOP}
"""What one has to know to compare times."""
