"""The network that reads a sequence of numbers, codes or both, and names its class at every step."""

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
    pattern: str = "m"
    d_model: int = 32
    num_heads: int = 4
    dropout: float = 0.1
    pooling: Pooling = "mean"

    def __post_init__(self) -> None:
        check_pattern(self.pattern)
        check_choice("pooling", self.pooling, ("last", "mean", "both"))
        for name in ("num_classes", "input_width", "d_model", "num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
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
        torch.Size([4, 10, 3])
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
        codes: Int[Tensor, "B T"] | None = None,
        lengths: Int[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B T A"]:
        """The logits at every step.

        Args:
            values: The numbers; with `num_inputs`.
            codes: From 1 to `num_codes`, or 0 for none, which adds nothing; with `num_codes`.
            lengths: How many steps of each row are real, from the first; `None` is all. What
                stands behind them is never seen, and the logits there mean nothing.
        """
        return self.answers(values, None if codes is None else self.codes(codes), lengths)

    def answers(
        self,
        values: Float[Tensor, "B T X"] | None,
        embedded: Float[Tensor, "B T D"] | None,
        lengths: Int[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B T A"]:
        """The same from codes that are embedded already."""
        x = 0 if embedded is None else embedded
        if values is not None:
            before = F.pad(values, (0, 0, self.config.input_width - 1, 0))
            x = x + self.inputs(before.unfold(1, self.config.input_width, 1).flatten(2))
        y, _ = self.stack(x, lengths=lengths)
        return self.head(self.dropout(self._pooled(y)))

    def _pooled(self, y: Float[Tensor, "B T D"]) -> Float[Tensor, "B T Y"]:
        if self.config.pooling == "last":
            return y
        steps = torch.arange(1, y.shape[1] + 1, device=y.device, dtype=y.dtype)
        mean = y.cumsum(1) / steps[:, None]
        return mean if self.config.pooling == "mean" else torch.cat((y, mean), -1)


def at_end(steps: Float[Tensor, "B T A"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B A"]:
    """What stands at each row's last real step."""
    return steps[torch.arange(len(steps), device=steps.device), lengths - 1]
