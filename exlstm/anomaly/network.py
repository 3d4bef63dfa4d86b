"""The causal network that says how surprising every step of a series is."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exlstm.shapes import Float

Method = Literal["prediction", "reconstruction"]

MIN_SCALE = 0.01
"""Of the predicted distributions, in units of the data: a series that repeats one value exactly
has no likelihood without it."""


class Carried(NamedTuple):
    """What a network needs, besides its weights, to go on with a series.

    Attributes:
        memory: The backbone's state; `None` before the first step.
        recent: (B, S, C, 2, S) the last predictions, or (B, S - 1, C) the last steps that a
            reconstruction covers; NaN where there are none.
    """

    memory: Any
    recent: Tensor


class SurpriseNetwork(nn.Module):
    """The surprise of each step: -log p under Student-t distributions that the network gives.

    `prediction`: after each step the network says how the next S steps are distributed. The
    surprise of a step is the mean of -log p(x_t | x_1 .. x_(t-k)) over k = 1 .. S and channels.

    `reconstruction`: what the network remembers after a step goes through a code of a few numbers,
    and these say how the last S steps were distributed. The surprise of a step is the mean of
    -log p(x_(t-k) | code_t) over k = 0 .. S - 1 and channels.

    Neither sees a step after t. Values that are missing (NaN) are not counted.

    Args:
        backbone: Causal, (B, T, D) and its state to (B, T, D) and its state: an `XLSTMStack`, or an
            `nn.LSTM` with `batch_first`.
        d_model: D.
        num_channels: C.
        method: Which of the two.
        span: S.
        code_size: Numbers in the code.
    """

    def __init__(
        self, backbone: nn.Module, *, d_model: int, num_channels: int, method: Method, span: int,
        code_size: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.backbone, self.method, self.span = backbone, method, span
        self.embed = nn.Linear(2 * num_channels, d_model)
        self.leads = [1]
        while method == "prediction" and 2 * self.leads[-1] <= span:
            self.leads.append(2 * self.leads[-1])
        self.outputs = len(self.leads) if method == "prediction" else span
        distributions = nn.Linear(d_model, num_channels * 2 * self.outputs)
        if method == "prediction":
            self.head = nn.Sequential(distributions)
        else:
            into, out = nn.Linear(d_model, code_size), nn.Linear(code_size, d_model)
            self.head = nn.Sequential(into, out, nn.GELU(), distributions)
        self.raw_df = nn.Parameter(torch.full((num_channels, 1), 4.0))

    def forward(
        self, x: Float[Tensor, "B T C"], carried: Carried | None = None
    ) -> tuple[Float[Tensor, "B T"], Carried]:
        """The surprise of each step, NaN where there is nothing to compare, and how to go on."""
        missing = x.isnan()
        filled = x.masked_fill(missing, 0.0)
        memory = None if carried is None else carried.memory
        hidden = self.embed(torch.cat([filled, missing.to(x.dtype)], dim=-1))
        hidden, memory = self.backbone(hidden, memory)
        given = self.head(hidden).unflatten(-1, (x.shape[-1], 2, self.outputs))
        if self.method == "prediction":
            given = given + torch.stack([filled, torch.zeros_like(filled)], -1).unsqueeze(-1)
            every = torch.cat([self._before(given, self.span, carried), given], dim=1)
            recent = every[:, -self.span :]
            met = [
                every[:, self.span - lead : self.span - lead + x.shape[1], ..., number]
                for number, lead in enumerate(self.leads)
            ]
            location, raw_scale = torch.stack(met, dim=-1).unbind(3)
            target = x.unsqueeze(-1)
        else:
            every = torch.cat([self._before(x, self.span - 1, carried), x], dim=1)
            recent = every[:, every.shape[1] - self.span + 1 :]
            target = every.unfold(1, self.span, 1)
            location, raw_scale = given.unbind(3)
        surprise = self._surprise(target, location, raw_scale)
        return surprise.flatten(2).nanmean(2), Carried(memory, recent)

    def _before(self, like: Tensor, steps: int, carried: Carried | None) -> Tensor:
        if carried is not None:
            return carried.recent
        return like.new_full((like.shape[0], steps, *like.shape[2:]), torch.nan)

    def _surprise(self, target: Tensor, location: Tensor, raw_scale: Tensor) -> Tensor:
        """-log p of Student's t; NaN where the target or the distribution is."""
        there = ~(target.isnan() | location.isnan())
        # No NaN may enter the formula: its gradient would be one, masked or not.
        location, raw_scale = (part.where(there, 0.0) for part in (location, raw_scale))
        scale = F.softplus(raw_scale) + MIN_SCALE
        df = 1 + F.softplus(self.raw_df)
        z = (target.where(there, 0.0) - location) / scale
        constant = torch.lgamma(df / 2) - torch.lgamma((df + 1) / 2) + 0.5 * (df * math.pi).log()
        value = constant + scale.log() + (df + 1) / 2 * torch.log1p(z.square() / df)
        return value.where(there, torch.nan)
