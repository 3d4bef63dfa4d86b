"""A network trained on rows that fit in memory, and stopped where it no longer becomes better.

Not by the engine in `exlstm.train`, which is for language models on a token file and keeps a folder
of checkpoints: a fit here takes seconds to minutes, writes nothing, and is done again, not resumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from exlstm.nn.descent import descend
from exlstm.nn.parameter_groups import parameter_groups


@dataclass(frozen=True, kw_only=True)
class Training:
    """How to train.

    Attributes:
        max_epochs: Passes over the rows, at most. The learning rate falls to zero over them.
        batch_size: Rows a step.
        learning_rate: Peak: a linear warm-up over the first tenth of the steps, then a cosine.
        weight_decay: Of matrices only.
        clip: Largest norm of the gradient.
        patience: Training ends after this many epochs without a new best validation loss.

    Raises:
        ValueError: A field is not possible.
    """

    max_epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    patience: int = 5

    def __post_init__(self) -> None:
        for name in ("max_epochs", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")


def train(
    model: nn.Module,
    num_rows: int,
    loss: Callable[[Tensor], Tensor],
    validation: Callable[[], float] | None,
    training: Training,
    *,
    seed: int,
    progress: Callable[[dict[str, float]], object] | None = None,
) -> list[dict[str, float]]:
    """Train `model` in place; it ends in eval mode, with the weights of its best epoch.

    Args:
        model: What is trained.
        num_rows: Of the data. Every epoch takes each once, in another order.
        loss: The mean loss of the rows whose numbers (N,) it is given, with gradients to `model`.
        validation: The loss that decides which epoch is best; it is called in eval mode without
            gradients. `None`: the last epoch is.
        training: How.
        seed: Of the order of the rows. Dropout draws from torch's global generator.
        progress: Called after every epoch with its line.

    Returns:
        A line an epoch: `epoch` from 1, `loss`, the mean over its steps, and `validation`.

    Raises:
        FloatingPointError: A loss or a gradient is not finite.
    """
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, training.weight_decay), lr=training.learning_rate, fused=True
    )
    steps = training.max_epochs * math.ceil(num_rows / training.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warmup_then_cosine(steps))
    best, best_loss, waited = None, math.inf, 0
    lines: list[dict[str, float]] = []
    for epoch in range(1, training.max_epochs + 1):
        model.train()
        losses = []
        for rows in torch.randperm(num_rows, generator=order).split(training.batch_size):
            value = loss(rows)
            losses.append(descend(model, optimizer, value, training.clip, f"in epoch {epoch}"))
            schedule.step()
        lines.append({"epoch": epoch, "loss": sum(losses) / len(losses)})
        model.eval()
        if validation is not None:
            with torch.no_grad():
                lines[-1]["validation"] = now = validation()
            if now < best_loss:
                best = {name: value.clone() for name, value in model.state_dict().items()}
                best_loss, waited = now, 0
            else:
                waited += 1
        if progress is not None:
            progress(lines[-1])
        if waited == training.patience:
            break
    if best is not None:
        model.load_state_dict(best)
    return lines


def _warmup_then_cosine(steps: int) -> Callable[[int], float]:
    warmup = max(1, steps // 10)

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return share
