"""How one network learns the classes of encoded records."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from exlstm.classify.encoding import Inputs
from exlstm.estimators import Training, train
from exlstm.shapes import Bool, Float, Int

_ROWS = 256  # at once in validation


def held_out(
    numbers: NDArray[np.int64], fraction: float, rng: np.random.RandomState
) -> NDArray[np.bool_]:
    """Which records are held out: of each class its share, but never all."""
    held = np.zeros(len(numbers), bool)
    for number in np.unique(numbers):
        rows = rng.permutation(np.flatnonzero(numbers == number))
        held[rows[: min(round(fraction * len(rows)), len(rows) - 1)]] = True
    return held


@dataclass(frozen=True)
class Fitting:
    """What is learnt, and what from.

    Attributes:
        inputs: All records.
        targets: The number of each one's class.
        weight: Of each class.
        held: Which records decide when to stop; training does not see them.
        early: Whether half of the loss is the mean over all steps.
        shift: Records begin up to so many steps earlier or later.
        noise: Standard deviation of what is added to observed numbers.
        num_channels: C, of the numbers.
    """

    inputs: Inputs
    targets: Int[Tensor, " N"]
    weight: Float[Tensor, " A"]
    held: Bool[Tensor, " N"]
    early: bool
    shift: int
    noise: float
    num_channels: int

    def run(self, network: nn.Module, training: Training, seed: int) -> list[dict[str, float]]:
        """Train; a line an epoch."""
        used, unused = (~self.held).nonzero()[:, 0], self.held.nonzero()[:, 0]

        def loss(numbers: Tensor) -> Tensor:
            rows = used[numbers]
            return self._mean_loss(network, rows, self._changed(self.inputs.rows(rows)))

        def validation() -> float:
            parts = unused.split(_ROWS)
            losses = [
                self._mean_loss(network, rows, self.inputs.rows(rows)).item() * len(rows)
                for rows in parts
            ]
            return sum(losses) / len(unused)

        return train(
            network, len(used), loss, validation if len(unused) else None, training, seed=seed
        )

    def _mean_loss(self, network: nn.Module, rows: Tensor, seen: Inputs) -> Tensor:
        truth, importance = self.targets[rows], self.weight[self.targets[rows]]
        logits = network(seen.values, seen.codes, seen.lengths, every_step=self.early)
        if not self.early:
            return (importance * F.cross_entropy(logits, truth, reduction="none")).mean()
        each = truth[:, None].expand(logits.shape[:2])
        losses = F.cross_entropy(logits.transpose(1, 2), each, reduction="none")
        last = losses.gather(1, seen.lengths[:, None] - 1)[:, 0]
        real = torch.arange(logits.shape[1]) < seen.lengths[:, None]
        every = torch.where(real, losses, 0.0).sum(1) / seen.lengths
        return (importance * (last + every)).mean() / 2

    def _changed(self, inputs: Inputs) -> Inputs:
        """The records as training sees them this time: moved in time, with noise."""
        values = inputs.values
        if values is None or not (self.shift or self.noise):
            return inputs
        if self.shift:
            batch, time = values.shape[:2]
            moved = torch.arange(time) + torch.randint(-self.shift, self.shift + 1, (batch, 1))
            moved = moved.clamp_min(0).minimum(inputs.lengths[:, None] - 1)
            values = values.gather(1, moved[..., None].expand_as(values))
        if self.noise:
            numbers, missing, rest = values.tensor_split(
                (self.num_channels, 2 * self.num_channels), dim=2
            )
            drawn = self.noise * torch.randn_like(numbers) * (1 - missing)
            values = torch.cat((numbers + drawn, missing, rest), 2)
        return dataclasses.replace(inputs, values=values)
