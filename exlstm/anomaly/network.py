"""The causal network that says how surprising every step of a series is."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from exlstm.shapes import Float

Method = Literal["prediction", "reconstruction"]

MIN_VARIANCE = 1e-4
"""Of the errors, in units of the data's: a series that repeats one value exactly has no likelihood
without it."""


class Carried(NamedTuple):
    """What a network needs, besides its weights, to go on with a series.

    Attributes:
        memory: The backbone's state; `None` before the first step.
        recent: (B, S, C, K) the last predictions, or (B, S - 1, C) the last steps that a
            reconstruction covers; NaN where there are none.
    """

    memory: Any
    recent: Tensor


class SurpriseNetwork(nn.Module):
    """The surprise of each step: -log p under normal distributions whose means the network gives.

    `prediction`: after each step the network predicts the steps k = 1, 2, 4, .. <= S ahead. The
    surprise of a step is the mean of -log p(x_t | x_1 .. x_(t-k)) over k and channels. With S = 1
    it is the one-step likelihood; the longer ones see what lasts, which one step soon explains.

    `reconstruction`: what the network remembers after a step goes through a code of a few numbers,
    from which it says the last S steps. The surprise of a step is the mean of
    -log p(x_(t-k) | code_t) over k = 0 .. S - 1 and channels.

    The variance is one number a channel, that of the errors on the data learnt from: a surprise
    grows with the square of the error, and the k that is hard to say counts most. No surprise
    depends on a step after it. Values that are missing (NaN) are not counted.

    Args:
        backbone: Causal, (B, T, D) and its state to (B, T, D) and its state: an `XLSTMStack`, or an
            `nn.LSTM` with `batch_first`.
        d_model: D.
        num_channels: C.
        method: Which of the two.
        span: S.
        code_size: Numbers in the code.

    Attributes:
        variance: (C, 1); 1 in training, where the surprise is half the squared error and a
            constant.
    """

    variance: Tensor

    def __init__(
        self, backbone: nn.Module, *, d_model: int, num_channels: int, method: Method, span: int,
        code_size: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.backbone, self.method, self.span = backbone, method, span
        self.embed = nn.Linear(2 * num_channels, d_model)
        if method == "prediction":
            self.lags = [2**power for power in range(span.bit_length())]
            into = nn.Identity()
        else:
            self.lags = list(range(span - 1, -1, -1))  # the oldest first
            into = nn.Sequential(
                nn.Linear(d_model, code_size), nn.Linear(code_size, d_model), nn.GELU()
            )
        self.head = nn.Sequential(into, nn.Linear(d_model, num_channels * len(self.lags)))
        self.register_buffer("variance", torch.ones(num_channels, 1))

    def forward(
        self, x: Float[Tensor, "B T C"], carried: Carried | None = None
    ) -> tuple[Float[Tensor, "B T"], Carried]:
        """The surprise of each step, NaN where there is nothing to compare, and how to go on."""
        errors, carried = self.squared_errors(x, carried)
        surprises = 0.5 * (errors / self.variance + (2 * math.pi * self.variance).log())
        return surprises.flatten(2).nanmean(2), carried

    def squared_errors(
        self, x: Float[Tensor, "B T C"], carried: Carried | None = None
    ) -> tuple[Float[Tensor, "B T C K"], Carried]:
        """Of each step, channel and k; NaN where the value or what was said of it is missing."""
        missing = x.isnan()
        filled = x.masked_fill(missing, 0.0)
        memory = None if carried is None else carried.memory
        # arcsinh: what is far outside of all that was learnt must not drown the memory.
        hidden = self.embed(torch.cat([filled.arcsinh(), missing.to(x.dtype)], dim=-1))
        hidden, memory = self.backbone(hidden, memory)
        said = self.head(hidden).unflatten(-1, (x.shape[-1], len(self.lags)))
        if self.method == "prediction":
            said = said + filled.unsqueeze(-1)  # a prediction is a distance from the last value
            every = torch.cat([self._before(said, self.span, carried), said], dim=1)
            recent = every[:, -self.span :]
            met = [
                every[:, self.span - lag : self.span - lag + x.shape[1], :, number]
                for number, lag in enumerate(self.lags)
            ]
            said, target = torch.stack(met, dim=-1), x.unsqueeze(-1)
        else:
            every = torch.cat([self._before(x, self.span - 1, carried), x], dim=1)
            recent = every[:, every.shape[1] - self.span + 1 :]
            target = every.unfold(1, self.span, 1)
        there = ~(target.isnan() | said.isnan())
        # No NaN may enter the square: its gradient would be one, masked or not.
        errors = (target.where(there, 0.0) - said.where(there, 0.0)).square()
        return errors.where(there, torch.nan), Carried(memory, recent)

    def _before(self, like: Tensor, steps: int, carried: Carried | None) -> Tensor:
        if carried is not None:
            return carried.recent
        return like.new_full((like.shape[0], steps, *like.shape[2:]), torch.nan)
