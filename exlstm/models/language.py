"""THE LM: embedding, stack of blocks, head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from exlstm.models.config import XLSTMConfig
from exlstm.nn import MixerState, XLSTMStack, init
from exlstm.nn.layers import Linear, soft_cap
from exlstm.ops.linear import linear
from exlstm.shapes import Bool, Float, Int


class XLSTMLanguageModel(nn.Module):
    """Next-token prediction with an xLSTM: memory of constant size, however long the text.

    Args:
        config: What to build. The parameters are drawn from torch's global generator.
        activation_checkpointing: See `exlstm.nn.XLSTMStack`.

    Raises:
        ValueError: The configuration's sizes do not fit together; the message names them.

    Example:
        >>> import torch
        >>> model = XLSTMLanguageModel(XLSTMConfig(vocab_size=257, d_model=32, pattern="ms"))
        >>> logits, state = model(torch.tensor([[72, 101, 108]]))
        >>> logits_next, state = model(torch.tensor([[108]]), state)
        >>> logits.shape, logits_next.shape
        (torch.Size([1, 3, 257]), torch.Size([1, 1, 257]))
    """

    def __init__(
        self,
        config: XLSTMConfig,
        *,
        activation_checkpointing: Literal["cheap", "blocks"] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.stack = XLSTMStack(
            config.d_model,
            config.pattern,
            num_heads=config.num_heads,
            d_inner=config.d_inner,
            d_qk=config.d_qk,
            d_ff=config.d_ff,
            conv_width=config.conv_width,
            slstm_conv_width=config.slstm_conv_width,
            qkv_block_size=config.qkv_block_size,
            gate_soft_cap=config.gate_soft_cap,
            input_gate=config.input_gate,
            forget_gate=config.forget_gate,
            recurrent_init=config.recurrent_init,
            dropout=config.dropout,
            activation_checkpointing=activation_checkpointing,
        )
        init.small_(self.embedding.weight, config.d_model)
        self.head: nn.Module | None = None
        if not config.tie_embeddings:
            self.head = Linear(config.d_model, config.vocab_size, bias=False)
            init.small_(self.head.weight, config.d_model)

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        state: Sequence[MixerState] | None = None,
        *,
        mask: Bool[Tensor, "B T"] | None = None,
        reset: Bool[Tensor, "B T"] | None = None,
        last_only: bool = False,
    ) -> tuple[Float[Tensor, "B _ A"], tuple[MixerState, ...]]:
        """The logits of the token after each, and the memory after the last.

        Both are in float32, whatever the weights are in; in float64 if those are.

        Args:
            tokens: Token ids, at least one a row.
            state: Where to continue from; `None` is the empty memory.
            mask: Where False, the token is absent: padding on either side, or gaps.
            reset: Where True, the memory is emptied before the token: a document starts.
            last_only: Whether to return the logits of the last token only, (B, 1, A): all that
                generation needs, and the head is a large part of the work.

        Raises:
            ValueError: `tokens` is not (B, T) with T at least 1, or no integers.
        """
        if tokens.ndim != 2 or tokens.shape[1] == 0 or tokens.is_floating_point():
            raise ValueError(
                f"tokens must be integers of shape (B, T) with T >= 1, "
                f"got {tokens.dtype} {tuple(tokens.shape)}"
            )
        x, after = self.features(self.embedding(tokens), state, mask=mask, reset=reset)
        if last_only:
            x = x[:, -1:]
        return self.logits(x), after

    def features(
        self,
        embedded: Float[Tensor, "B T D"],
        state: Sequence[MixerState] | None = None,
        *,
        mask: Bool[Tensor, "B T"] | None = None,
        reset: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], tuple[MixerState, ...]]:
        """What the head reads, from embedded tokens; the rest as in `forward`."""
        return self.stack(self.dropout(embedded), state, mask=mask, reset=reset)

    def logits(self, x: Float[Tensor, "*S D"]) -> Float[Tensor, "*S A"]:
        """The head and its cap, at least in float32, on what `features` returns."""
        logits = linear(x, self.embedding.weight) if self.head is None else self.head(x)
        wide = torch.promote_types(logits.dtype, torch.float32)
        return soft_cap(logits.to(wide), self.config.logit_soft_cap)
