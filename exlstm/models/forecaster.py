"""THE FORECASTER: patches of a series in, quantiles of what follows out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exlstm.models.patches import fill, flag, last_steps, standard_deviation, to_patches
from exlstm.models.ridge import ridge
from exlstm.nn import XLSTMStack, init
from exlstm.nn.layers import Linear
from exlstm.nn.stack import check_pattern
from exlstm.ops.checks import check_shapes
from exlstm.shapes import Float


@dataclass(frozen=True, kw_only=True)
class ForecasterConfig:
    """Everything that defines a forecaster's shape and function.

    Attributes:
        horizon: Steps ahead, all in one go.
        context_length: Steps of the past that are read; a shorter past is missing on the left.
        patch_length: Steps that become one token.
        num_past: Covariates known up to now.
        num_future: Covariates known over the horizon too.
        num_static: Numbers that describe a whole series.
        quantiles: Which quantiles are forecast: increasing, between 0 and 1.
        pattern: Blocks of the backbone; see `exlstm.nn.XLSTMStack` for this and the next three.
        d_model: Width, D.
        num_heads: Number of heads, H.
        dropout: Of the tokens and of every residual branch.

    Raises:
        ValueError: A field is not as above.

    Example:
        >>> ForecasterConfig(horizon=24).context_length
        512
    """

    horizon: int
    context_length: int = 512
    patch_length: int = 16
    num_past: int = 0
    num_future: int = 0
    num_static: int = 0
    quantiles: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    pattern: str = "ss"
    d_model: int = 64
    num_heads: int = 4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "quantiles", tuple(self.quantiles))  # a list where it was JSON
        check_pattern(self.pattern)
        for name in ("horizon", "context_length", "patch_length", "d_model", "num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("num_past", "num_future", "num_static"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        ordered = tuple(sorted(set(self.quantiles)))
        if not ordered or ordered != self.quantiles or ordered[0] <= 0 or ordered[-1] >= 1:
            raise ValueError(
                f"quantiles must increase and lie between 0 and 1, got {self.quantiles}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")


class XLSTMForecastModel(nn.Module):
    r"""Quantiles of the next `horizon` steps from the last `context_length`.

    The forecast is the mean of two, each trained by itself, as their errors differ; where there are
    covariates, of which the line knows nothing, their mean is trained, for their whole effect:

        line:   last + W (window - last)
        stack:  last + s * (A patches + head(stack(tokens)))

    with the window's last value and its standard deviation s. Patches are those of
    (window - last) / s, of which A makes the patches of the horizon: where the patch is a season,
    each hour of a day from the same hour of days before. They are the tokens too, with their
    covariates, and behind them empty ones over the horizon. The head adds to the median and
    gives, by softplus, the gaps to the others: quantiles never cross, and a series times a
    number above 0 plus a number has the forecast times and plus these.

    NaN is a step that is missing. A window without any value has the forecast NaN, a constant one
    is forecast to stay so. Rows never depend on each other.

    Args:
        config: What to build. The parameters are drawn from torch's global generator.

    Raises:
        ValueError: The configuration's sizes do not fit together; the message names them.

    Example:
        >>> model = XLSTMForecastModel(ForecasterConfig(horizon=24, context_length=96))
        >>> model(torch.randn(2, 200)).shape
        torch.Size([2, 24, 9])
    """

    def __init__(self, config: ForecasterConfig) -> None:
        super().__init__()
        self.config = config
        num_ahead = math.ceil(config.horizon / config.patch_length)
        num_before = math.ceil(config.context_length / config.patch_length)
        self.apart = not (config.num_past or config.num_future or config.num_static)
        # The two forecasts meet at the median, asked for or not.
        self.levels = sorted({*config.quantiles, 0.5})
        self.median = self.levels.index(0.5)
        # Each value comes with a flag whether it was observed.
        per_step = 2 * (1 + config.num_past + config.num_future)
        self.embed = Linear(
            per_step * config.patch_length + 2 * config.num_static, config.d_model, bias=False
        )
        self.ahead = nn.Parameter(torch.zeros(num_ahead, config.d_model))
        self.dropout = nn.Dropout(config.dropout)
        self.stack = XLSTMStack(
            config.d_model, config.pattern, num_heads=config.num_heads, dropout=config.dropout
        )
        self.head = Linear(config.d_model, config.patch_length * len(self.levels), bias=False)
        self.line = Linear(config.context_length, config.horizon, bias=False)
        self.across = Linear(num_before, num_ahead, bias=False)
        # The gaps are at first those of a normal distribution.
        gaps = torch.special.ndtri(torch.tensor(self.levels)).diff().expm1().log()
        offsets = torch.cat([gaps[: self.median], torch.zeros(1), gaps[self.median :]])
        self.offsets = nn.Parameter(offsets.repeat(config.horizon, 1))
        init.small_(self.embed.weight, self.embed.in_features)
        nn.init.normal_(self.head.weight, std=0.1 / math.sqrt(config.d_model))
        nn.init.zeros_(self.line.weight)
        nn.init.zeros_(self.across.weight)

    def forward(
        self,
        target: Float[Tensor, "B T"],
        past: Float[Tensor, "B T _"] | None = None,
        future: Float[Tensor, "B _ _"] | None = None,
        static: Float[Tensor, "B _"] | None = None,
    ) -> Float[Tensor, "B _ _"]:
        """The quantiles (B, horizon, Q) in the target's units, increasing along the last axis.

        Covariates should be near unit scale; what is NaN, or `None`, is missing.

        Args:
            target: The past of each row, NaN where missing, at least one step.
            past: Covariates of the same steps, P of them.
            future: Covariates of the same steps and of the horizon after them, F of them.
            static: Numbers that describe each row, S of them.

        Raises:
            ValueError: A shape or dtype does not fit the configuration.
        """
        line, quantiles, _ = self._both(target, past, future, static)
        quantiles = self._meet(line, quantiles)
        asked = [level in self.config.quantiles for level in self.levels]
        return quantiles if all(asked) else quantiles[..., asked]

    def loss(
        self,
        target: Float[Tensor, "B T"],
        truth: Float[Tensor, "B _"],
        past: Float[Tensor, "B T _"] | None = None,
        future: Float[Tensor, "B _ _"] | None = None,
        static: Float[Tensor, "B _"] | None = None,
        *,
        own_units: bool = False,
    ) -> Float[Tensor, ""]:
        r"""Twice the mean loss of the quantiles, and of the median where it is not among them.

        That is $\max(\tau e, (\tau - 1) e)$ for an error $e = y - \hat y_\tau$ of the forecast. In
        training without covariates it is the stack's, and the absolute error of the line is added.

        Args:
            target: As the next three in `forward`.
            truth: What followed; NaN is not counted.
            past: See above.
            future: See above.
            static: See above.
            own_units: Whether errors count in the target's units, as they should where those are
                the same for all rows. Otherwise they are divided by the standard deviation of the
                row's window (1 where it is 0).

        Returns:
            The loss, 0 where nothing is counted.

        Raises:
            ValueError: A shape or dtype does not fit the configuration.
        """
        horizon = self.config.horizon
        check_shapes(
            "loss", {"horizon": horizon}, target=(target, "B T"), truth=(truth, "B horizon")
        )
        line, quantiles, deviation = self._both(target, past, future, static)
        unit = torch.where((deviation > 0) & (not own_units), deviation, 1.0)
        counted = ~(truth.isnan() | line.isnan())
        levels = quantiles.new_tensor(self.levels)

        def mean(error: Tensor) -> Tensor:
            error = torch.where(counted, error / unit, 0.0)
            return error.sum() / counted.sum().clamp(min=1)

        def quantile_loss(quantiles: Tensor) -> Tensor:
            error = truth[..., None] - quantiles
            return mean(2 * torch.maximum(levels * error, (levels - 1) * error).mean(-1))

        if self.training and self.apart:
            return quantile_loss(quantiles) + mean((truth - line).abs())
        return quantile_loss(self._meet(line, quantiles))

    @torch.no_grad()
    def start_from(
        self,
        target: Float[Tensor, "B T"],
        truth: Float[Tensor, "B _"],
        validation: tuple[Float[Tensor, "_ T"], Float[Tensor, "_ _"]] | None = None,
        *,
        own_units: bool = False,
        strengths: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
    ) -> float | None:
        """Start from two ridge regressions, W and A, which training then leaves as they are.

        Windows without a value, and those whose truth has a gap, are left out.

        Args:
            target: Windows of the training part.
            truth: What followed each.
            validation: The same of the part whose absolute error chooses how strongly the line is
                shrunk; `None` takes the middle strength.
            own_units: Whether errors count in the target's units. Otherwise they are divided by
                the standard deviation of the window, as by default in `loss`.
            strengths: What is chosen from; see `exlstm.models.ridge`.

        Returns:
            The strength, or `None` where no window is left: then nothing is done.
        """
        whole = ~(truth.isnan().any(1) | target.isnan().all(1))
        if not whole.any():
            return None
        pieces = list(zip(target[whole].split(4096), truth[whole].split(4096), strict=True))
        best = len(strengths) // 2
        maps = ridge((self._pairs(x, y, own_units) for x, y in pieces), strengths)
        if validation is not None:
            x, y = self._pairs(*validation, own_units)
            errors = [(y - x @ weight.mT.to(x)).abs().nanmean().item() for weight in maps]
            best = min(range(len(maps)), key=errors.__getitem__)
        self.line.weight.copy_(maps[best])
        self.line.requires_grad_(False)
        rows = (self._patch_pairs(*self._pairs(x, y, own_units)) for x, y in pieces)
        self.across.weight.copy_(ridge(rows, (1e-3,))[0])
        self.across.requires_grad_(False)
        return strengths[best]

    def _pairs(self, target: Tensor, truth: Tensor, own_units: bool) -> tuple[Tensor, Tensor]:
        """The windows and what followed, less the last value."""
        filled, _, deviation = self._window(target)
        unit = torch.where((deviation > 0) & (not own_units), deviation, 1.0)
        return (filled - filled[:, -1:]) / unit, (truth - filled[:, -1:]) / unit

    def _patch_pairs(self, target: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """The same as a row for each step of a patch."""
        patches = self._patches(torch.cat([target, truth], dim=1)[..., None]).mT
        # The last patch may have fewer steps than the others.
        full = patches[:, : (self.config.horizon - 1) % self.config.patch_length + 1]
        x, y = full.split([self.across.in_features, self.across.out_features], dim=-1)
        return x.flatten(0, 1), y.flatten(0, 1)

    def _window(self, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The steps that are read, filled; which were observed; their standard deviation."""
        window = last_steps(target, self.config.context_length)
        observed = ~window.isnan()
        filled = fill(window)
        # From the last value, so that a constant window has the deviation 0 exactly.
        return filled, observed, standard_deviation(filled - filled[:, -1:], observed)

    def _patches(self, x: Tensor) -> Tensor:
        return to_patches(x, self.config.horizon, self.config.patch_length)

    def _both(
        self, target: Tensor, past: Tensor | None, future: Tensor | None, static: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The line (B, horizon), the stack's quantiles (B, horizon, Q), the deviation (B, 1)."""
        config = self.config
        self._check(target, past, future, static)
        filled, observed, deviation = self._window(target)
        last = filled[:, -1:]
        line = last + self.line(filled - last)

        normal = (filled - last) / torch.where(deviation > 0, deviation, 1.0)
        patches = self._patches(F.pad(normal, (0, config.horizon))[..., None])
        across = self.across(patches[:, : self.across.in_features].mT).mT.flatten(1)
        tokens = self._tokens(torch.where(observed, normal, math.nan), past, future, static)
        x = self.stack(tokens)[0][:, -len(self.ahead) :]
        raw = self.head(x).unflatten(-1, (config.patch_length, -1)).flatten(1, 2)
        raw = raw[:, : config.horizon] + self.offsets
        below, median, above = raw.tensor_split((self.median, self.median + 1), dim=-1)
        median = median + across[:, : config.horizon, None]
        below = median - F.softplus(below).flip(-1).cumsum(-1).flip(-1)
        above = median + F.softplus(above).cumsum(-1)
        quantiles = torch.cat([below, median, above], dim=-1)
        quantiles = last[..., None] + deviation[..., None] * quantiles

        seen = observed.any(1)[:, None]
        return (
            torch.where(seen, line, math.nan),
            torch.where(seen[..., None], quantiles, math.nan),
            deviation,
        )

    def _meet(self, line: Tensor, quantiles: Tensor) -> Tensor:
        """The quantiles moved half the way to the line."""
        return quantiles + 0.5 * (line - quantiles[..., self.median])[..., None]

    def _tokens(
        self, normal: Tensor, past: Tensor | None, future: Tensor | None, static: Tensor | None
    ) -> Tensor:
        config = self.config
        size, horizon = config.context_length, config.horizon
        steps = [F.pad(normal, (0, horizon), value=math.nan)[..., None]]
        if past is not None:
            steps.append(F.pad(last_steps(past, size), (0, 0, 0, horizon), value=math.nan))
        elif config.num_past:
            steps.append(normal.new_full((len(normal), size + horizon, config.num_past), math.nan))
        if future is not None:
            steps.append(last_steps(future, size + horizon))
        elif config.num_future:
            shape = (len(normal), size + horizon, config.num_future)
            steps.append(normal.new_full(shape, math.nan))
        tokens = self._patches(flag(torch.cat(steps, dim=-1)))
        if config.num_static:
            if static is None:
                static = normal.new_full((len(normal), config.num_static), math.nan)
            tokens = torch.cat(
                [tokens, flag(static)[:, None].expand(-1, tokens.shape[1], -1)], dim=-1
            )
        before = tokens.shape[1] - len(self.ahead)
        return self.dropout(self.embed(tokens) + F.pad(self.ahead, (0, 0, before, 0)))

    def _check(
        self, target: Tensor, past: Tensor | None, future: Tensor | None, static: Tensor | None
    ) -> None:
        config = self.config
        check_shapes("forecaster", target=(target, "B T"))
        sizes = {"B": target.shape[0], "T": target.shape[1]}
        sizes["T+horizon"] = sizes["T"] + config.horizon
        for name, tensor, letters, count in (
            ("past", past, "B T P", config.num_past),
            ("future", future, "B T+horizon F", config.num_future),
            ("static", static, "B S", config.num_static),
        ):
            if tensor is None:
                continue
            if count == 0:
                raise ValueError(f"num_{name} is 0 in the configuration, got a tensor")
            check_shapes(
                "forecaster",
                sizes | {letters[-1]: count},
                target.dtype,
                **{name: (tensor, letters)},
            )
