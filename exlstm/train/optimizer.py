"""The paper's optimizer: AdamW with decay on matrices only, linear warm-up and a cosine."""

from __future__ import annotations

import math
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


def learning_rate_factor(step: int, *, steps: int, warmup: int, min_ratio: float) -> float:
    """Return the share of the peak learning rate at `step`, counted from 0.

    Linear up to 1 over the first `warmup` steps, then a cosine down to `min_ratio` after `steps`.

    Example:
        >>> [learning_rate_factor(s, steps=6, warmup=2, min_ratio=0.0) for s in (0, 1, 2, 4, 6)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
