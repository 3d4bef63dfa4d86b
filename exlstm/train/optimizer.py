"""The paper's optimizer: AdamW with decay on matrices only."""

from __future__ import annotations

import torch
from torch import nn

from exlstm.nn.parameter_groups import parameter_groups


def adamw(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
) -> torch.optim.AdamW:
    """Return AdamW over the groups of `model`; the fused one, one call per step on a CPU too."""
    groups = parameter_groups(model, weight_decay)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=eps, fused=True)
