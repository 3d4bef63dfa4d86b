"""How the network learns from one series, and how it reads a long one."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from exlstm.anomaly.network import MIN_VARIANCE, Carried, SurpriseNetwork
from exlstm.anomaly.series import Array
from exlstm.estimators import Training, train
from exlstm.shapes import Float

_WINDOWS = 64  # of an epoch, at equal distances
_PIECE = 4096  # steps read at once: memory does not grow with the series


def fit_network(
    network: SurpriseNetwork,
    steps: Float[Tensor, "T C"],
    num_learnt: int,
    *,
    window: int,
    training: Training,
    seed: int,
) -> list[dict[str, float]]:
    """Learn from windows of the first `num_learnt` steps; the rest says which epoch is best.

    The rest is read after all that is before it, as a long series will be.
    """
    length = min(window, num_learnt)
    count = min(_WINDOWS, num_learnt - length + 1)
    starts = torch.from_numpy(np.linspace(0, num_learnt - length, count).astype(np.int64))
    offsets = torch.arange(length)

    def loss(rows: Tensor) -> Tensor:
        surprises, _ = network(steps[starts[rows, None] + offsets])
        return surprises.nansum() / (~surprises.isnan()).sum().clamp(min=1)

    def validation() -> float:
        surprises, _ = surprises_of(network, steps, None)
        unseen = surprises[num_learnt:]
        return float(np.nanmean(unseen)) if not np.isnan(unseen).all() else math.nan

    lines = train(network, count, loss, validation, training, seed=seed)
    _fit_variance(network, steps)
    return lines


@torch.no_grad()
def surprises_of(
    network: SurpriseNetwork, steps: Float[Tensor, "T C"], carried: Carried | None
) -> tuple[Array, Carried | None]:
    """The surprise (T,) of each step, and how to go on."""
    pieces = []
    for piece in steps.split(_PIECE):
        surprises, carried = network(piece[None], carried)
        pieces.append(surprises[0])
    return torch.cat(pieces).double().numpy(), carried


@torch.no_grad()
def _fit_variance(network: SurpriseNetwork, steps: Float[Tensor, "T C"]) -> None:
    """Take the variance of each channel from its errors."""
    total = torch.zeros(steps.shape[1], dtype=torch.float64)
    count = torch.zeros(steps.shape[1])
    carried = None
    for piece in steps.split(_PIECE):
        errors, carried = network.squared_errors(piece[None], carried)
        total += errors.nansum((0, 1, 3)).double()
        count += (~errors.isnan()).sum((0, 1, 3))
    # A channel with one value, and that at the start, has no errors.
    variance = (total / count).nan_to_num(1.0).clamp(min=MIN_VARIANCE)
    network.variance.copy_(variance[:, None])
