"""Which parameters decay: the two groups that AdamW takes."""

from __future__ import annotations

from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The two groups AdamW takes: matrices named `weight`, which decay, and what does not.

    Norms, biases, skips, token embeddings and xLSTM's recurrent kernels do not. Also for models
    that are not ours, whatever they call their norms.
    Source: the paper's appendix on language modelling.

    Example:
        >>> model = nn.ModuleDict({"up": nn.Linear(2, 3), "norm": nn.LayerNorm(2)})
        >>> [len(group["params"]) for group in parameter_groups(model, 0.1)]
        [1, 3]
    """
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    decayed, undecayed = [], []
    for name, parameter in model.named_parameters():
        is_matrix = "weight" in name.rpartition(".")[2] and parameter.ndim > 1
        kept = id(parameter) in embeddings or "norm" in name or not is_matrix
        (undecayed if kept else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
