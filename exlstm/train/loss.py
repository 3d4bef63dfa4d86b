"""What a step makes smaller: the cross entropy of the next token, and the z-loss beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from exlstm.models import XLSTMLanguageModel


class WithLoss(nn.Module):
    """The model and its loss as one module, as DDP wants it.

    It also keeps the model's `config` out of sight: the Trainer would write into it. And it keeps
    the memory after each part of a batch, where the same part of the next batch goes on from it.
    """

    def __init__(
        self, language_model: XLSTMLanguageModel, parts: int = 1, z_loss: float = 0.0
    ) -> None:
        super().__init__()
        self.language_model = language_model
        self.z_loss = z_loss
        self.memory: list[Any] = [None] * parts

    def forward(
        self,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        reset: torch.Tensor,
        carried_part: int | None = None,
    ) -> dict[str, torch.Tensor]:
        state = None if carried_part is None else self.memory[carried_part]
        logits, after = self.language_model(inputs, state, reset=reset)
        if carried_part is not None:
            self.memory[carried_part] = tree_map(torch.Tensor.detach, after)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        if self.z_loss and self.training:
            penalty = self.z_loss * logits.logsumexp(-1).square().mean()
            loss = loss + (penalty - penalty.detach())  # its gradient; what is reported stays
        return {"loss": loss}
