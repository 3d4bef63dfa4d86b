"""The paper's optimizer: AdamW with decay on matrices only."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the two groups AdamW takes: what decays, and what does not.

    A parameter decays if its name ends in `weight`, no part of the name has `norm` in it, and it
    is no token embedding. The rest, so biases, skips and recurrent kernels, does not.
    Source: the paper's appendix on language modelling.

    Example:
        >>> model = nn.ModuleDict({"up": nn.Linear(2, 3), "norm": nn.LayerNorm(2)})
        >>> [len(group["params"]) for group in parameter_groups(model, 0.1)]
        [1, 3]
    """
    embeddings = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
    }
    decayed, undecayed = [], []
    for name, parameter in model.named_parameters():
        is_matrix = (
            name.endswith("weight") and "norm" not in name and id(parameter) not in embeddings
        )
        (decayed if is_matrix else undecayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]


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
