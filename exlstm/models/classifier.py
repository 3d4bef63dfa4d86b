"""The network that reads numbers, codes or both, and names the class at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exlstm.nn import XLSTMStack, init
from exlstm.nn.layers import Linear
from exlstm.nn.stack import check_pattern
from exlstm.ops.checks import check_choice
from exlstm.shapes import Float, Int

Pooling = Literal["last", "mean", "both"]


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Everything that defines the network's shape and function.

    Attributes:
        num_classes: Number of classes, A.
        num_inputs: Numbers a step, X.
        num_codes: Different event codes; 0 for sequences without codes.
        input_width: How many steps' numbers each step is read together with, itself and those
            before it.
        stride: The stack reads every so many steps, counted back from the step that is answered;
            at most `input_width`, so that none is left out.
        pattern: One letter a block; see `exlstm.nn.XLSTMStack`.
        d_model: Width, D.
        num_heads: Number of heads, H.
        dropout: Of every residual branch and in front of the head.
        pooling: What the answer at a step is made of: the output of that step (`last`), the mean of
            the outputs up to it (`mean`), or both.

    Raises:
        ValueError: A field is not as above.
    """

    num_classes: int
    num_inputs: int = 0
    num_codes: int = 0
    input_width: int = 8
    stride: int = 1
    pattern: str = "m"
    d_model: int = 32
    num_heads: int = 4
    dropout: float = 0.1
    pooling: Pooling = "both"

    def __post_init__(self) -> None:
        check_pattern(self.pattern)
        check_choice("pooling", self.pooling, ("last", "mean", "both"))
        for name in ("num_classes", "input_width", "stride", "d_model", "num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.stride > self.input_width:
            raise ValueError(
                f"stride must be at most input_width={self.input_width}, got {self.stride}"
            )
        if min(self.num_inputs, self.num_codes) < 0 or not self.num_inputs + self.num_codes:
            raise ValueError(
                "num_inputs and num_codes must be at least 0 and not both 0, "
                f"got {self.num_inputs} and {self.num_codes}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")


class XLSTMSequenceClassifier(nn.Module):
    """Classes of sequences, causal: the answer at a step has seen that step and those before it.

    Args:
        config: Its shape.

    Example:
        >>> config = ClassifierConfig(num_classes=3, num_inputs=2, num_codes=5)
        >>> network = XLSTMSequenceClassifier(config)
        >>> network(torch.randn(4, 10, 2), torch.randint(6, (4, 10))).shape
        torch.Size([4, 3])
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        width = config.d_model
        if config.num_inputs:
            self.inputs = Linear(config.input_width * config.num_inputs, width)
        if config.num_codes:
            self.codes = nn.Embedding(config.num_codes + 1, width, padding_idx=0)
            init.small_(self.codes.weight, width)
            with torch.no_grad():
                self.codes.weight[0] = 0
        self.stack = XLSTMStack(
            width, config.pattern, num_heads=config.num_heads, dropout=config.dropout
        )
        self.dropout = nn.Dropout(config.dropout)
        self.head = Linear(width * (2 if config.pooling == "both" else 1), config.num_classes)

    def forward(
        self,
        values: Float[Tensor, "B T X"] | None = None,
        codes: Tensor | None = None,
        lengths: Int[Tensor, " B"] | None = None,
        *,
        every_step: bool = False,
    ) -> Float[Tensor, "*S A"]:
        """The logits (B, A) after each row's last step, or (B, T, A) after every one.

        Args:
            values: The numbers; with `num_inputs`.
            codes: (B, T), from 1 to `num_codes`, or 0 for none, which adds nothing; or (B, T, D)
                as embedded by `self.codes`. With `num_codes`.
            lengths: How many steps of each row are real, from the first; `None` is all. What
                stands behind them is never seen.
            every_step: Whether all steps are answered. Behind the end of a row the logits mean
                nothing.
        """
        x = self._read(values, codes)
        batch, time, _ = x.shape
        stride = self.config.stride
        if every_step:
            # Each step by its place within the stride: those of one place are rows of their own.
            x = F.pad(x, (0, 0, 0, -time % stride)).unflatten(1, (-1, stride))
            y = self._answers(x.transpose(1, 2).flatten(0, 1))
            return y.unflatten(0, (batch, stride)).transpose(1, 2).flatten(1, 2)[:, :time]
        rows = torch.arange(batch, device=x.device)
        last = rows.new_full((batch,), time) - 1 if lengths is None else lengths - 1
        places = torch.arange(0, time, stride, device=x.device) + (last % stride)[:, None]
        x = x[rows[:, None], places.clamp_max(time - 1)]
        return self._answers(x)[rows, last // stride]

    def _read(self, values: Tensor | None, codes: Tensor | None) -> Float[Tensor, "B T D"]:
        parts: list[Tensor] = []
        if values is not None:
            width = self.config.input_width
            parts.append(self.inputs(_windows(values, width).flatten(2)))
        if codes is not None:
            embedded = codes if codes.is_floating_point() else self.codes(codes)
            parts.append(_windows(embedded, self.config.stride).sum(-1))
        return torch.stack(parts).sum(0)

    def _answers(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T A"]:
        # No mask: what is padded stands behind all that is answered.
        y, _ = self.stack(x)
        if self.config.pooling != "last":
            steps = torch.arange(1, y.shape[1] + 1, device=y.device, dtype=y.dtype)
            mean = y.cumsum(1) / steps[:, None]
            y = mean if self.config.pooling == "mean" else torch.cat((y, mean), -1)
        return self.head(self.dropout(y))


def _windows(x: Float[Tensor, "B T X"], width: int) -> Float[Tensor, "B T X W"]:
    """Each step together with those before it; zeros before the first."""
    return F.pad(x, (0, 0, width - 1, 0)).unfold(1, width, 1)
