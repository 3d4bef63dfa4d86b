"""One run: a model trained on a task with one learning rate and seed, and how good it became.

Not by the engine in `exlstm.train`, which is for language models on a token file and keeps a folder
of checkpoints: a run here is short, reads no file, and is done again rather than resumed.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import exlstm
from exlstm.experiments.sequence_models import SequenceModel, build_model
from exlstm.nn.descent import descend
from exlstm.nn.parameter_groups import parameter_groups
from exlstm.tasks import Batch, Task, scaled_accuracy

VALIDATION, VALIDATION_LONG, TEST = 0, 1, 2
"""Seeds of the sets apart from training. All runs share them, and nothing is chosen by the test."""

NUM_BUCKETS = 4
"""Of lengths, at most, in which results are given."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything a run's numbers depend on, besides the machine, its libraries and the threads.

    Attributes:
        task: See `find_task`.
        model: See `build_model`.
        lr: Peak learning rate: linear warm-up, then a cosine.
        seed: Of the parameters and the training rows.
        lengths: Shortest and longest row in training.
        test_lengths: In the test.
        d_model: Width.
        steps: Of training, at most.
        batch_size: Rows a step.
        warmup: Share of the steps.
        final_lr: After the last step.
        weight_decay: Of matrices only; see `parameter_groups`.
        clip: Largest norm of the gradient.
        eval_every: Steps between evaluations.
        eval_rows: Rows of each validation set, and of the test set.
        stop_at: Training ends once the scaled accuracy on the validation set of the test's lengths
            is this high; `None` never, and never where answers are numbers.

    Raises:
        ValueError: A field is not possible.
    """

    task: str
    model: str
    lr: float
    seed: int
    lengths: tuple[int, int]
    test_lengths: tuple[int, int]
    d_model: int = 64
    steps: int = 5000
    batch_size: int = 128
    warmup: float = 0.1
    final_lr: float = 1e-5
    weight_decay: float = 0.1
    clip: float = 1.0
    eval_every: int = 250
    eval_rows: int = 512
    stop_at: float | None = 0.99

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every", "eval_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("seed", "final_lr", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup must be a share from 0 to 1, got {self.warmup}")

    @property
    def identity(self) -> str:
        """A hash of the fields: runs of one identity are one run."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def learning_rate(run: Run, step: int) -> float:
    """The learning rate of a step, counted from 0."""
    warmup = round(run.warmup * run.steps)
    if step < warmup:
        return run.lr * (step + 1) / warmup
    final = min(run.final_lr, run.lr)
    progress = (step - warmup) / max(1, run.steps - warmup)
    return final + (run.lr - final) * 0.5 * (1 + math.cos(math.pi * progress))


def train(
    run: Run, task: Task, *, threads: int = 1, progress: Callable[[], object] | None = None
) -> tuple[SequenceModel, dict[str, Any]]:
    """Train a model and test it, in float32.

    Sets torch's seed and number of threads. The same run gives the same numbers, bit for bit, on
    the same machine with the same libraries and threads.

    Args:
        run: What to do.
        task: What `run.task` names.
        threads: CPU threads.
        progress: Called after every step.

    Returns:
        The model, and what JSON can hold: `validation` (training lengths, the last of
        `evaluations`) and `test` (test lengths), each as `evaluate` returns it; `loss_curve`, pairs
        of a step and the mean training loss since the pair before; `steps` done; whether it stopped
        for being `solved`; `cpu_seconds`, which other work on the machine hardly changes;
        `num_params`; `note`; `threads`; `versions`. Each of `evaluations` has its `step` and the
        `cpu_seconds` of training up to it, without those of evaluations; and `validation_long`
        where that can end the run.

    Raises:
        FloatingPointError: The loss or the gradient is not finite.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(run.seed)
    model = build_model(run.model, task, run.d_model)
    groups = parameter_groups(model, run.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=run.lr, betas=(0.9, 0.99), fused=True)
    began = time.process_time()
    evaluating = 0.0
    losses: list[float] = []
    curve: list[tuple[int, float]] = []
    evaluations: list[dict[str, Any]] = []
    solved = False
    step = 0
    while step < run.steps and not solved:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(run, step)
        batch = task.batch(run.seed, step, run.batch_size, run.lengths)
        answers, targets = _answers(model, batch)
        loss = _losses(answers, targets).mean()
        losses.append(descend(model, optimizer, loss, run.clip, f"at step {step + 1}"))
        step += 1
        if progress is not None:
            progress()
        if step % run.eval_every == 0 or step == run.steps:
            curve.append((step, sum(losses) / len(losses)))
            losses.clear()
            now = time.process_time()
            evaluation: dict[str, Any] = {"step": step, "cpu_seconds": now - began - evaluating}
            evaluation["validation"] = evaluate(model, task, run, VALIDATION, run.lengths)
            if run.stop_at is not None:
                long = evaluate(model, task, run, VALIDATION_LONG, run.test_lengths)
                evaluation["validation_long"] = long
                solved = long.get("scaled_accuracy", 0.0) >= run.stop_at
            evaluations.append(evaluation)
            evaluating += time.process_time() - now
    packages = [name for name in ("torch", "transformers", "numpy") if find_spec(name)]
    return model, {
        "validation": evaluations[-1]["validation"],
        "test": evaluate(model, task, run, TEST, run.test_lengths),
        "solved": solved,
        "steps": step,
        "cpu_seconds": round(time.process_time() - began, 2),
        "num_params": sum(parameter.numel() for parameter in model.parameters()),
        "note": model.note,
        "loss_curve": curve,
        "evaluations": evaluations,
        "threads": threads,
        "versions": {
            "python": platform.python_version(),
            "exlstm": exlstm.__version__,
            **{package: metadata.version(package) for package in packages},
        },
    }


@torch.no_grad()
def evaluate(
    model: nn.Module, task: Task, run: Run, seed: int, lengths: tuple[int, int]
) -> dict[str, Any]:
    """How good the answers are on the `run.eval_rows` rows of a set apart from training.

    Returns:
        `loss`; `accuracy`, of all answers asked for, and `scaled_accuracy`; or `mse` where answers
        are numbers; and `by_length`: the same with the `lengths` of the rows it is over.
    """
    model.eval()
    sums = []  # a row: its length, answers, loss, and those that are right
    for step, first in enumerate(range(0, run.eval_rows, run.batch_size)):
        size = min(run.batch_size, run.eval_rows - first)
        batch = task.batch(seed, step, size, lengths, test=True)
        answers, targets = _answers(model, batch)
        losses = np.zeros(batch.asked.shape)
        losses[batch.asked] = _losses(answers, targets).numpy()
        right = np.zeros(batch.asked.shape)
        if task.chance is not None:
            right[batch.asked] = (answers.argmax(-1) == targets).numpy()
        parts = (batch.lengths, batch.asked.sum(1), losses.sum(1), right.sum(1))
        sums.append(np.stack(parts, axis=1))
    model.train()
    rows = np.concatenate(sums)
    edges = np.unique(np.linspace(lengths[0], lengths[1] + 1, NUM_BUCKETS + 1).round())
    # A rule may make rows that are shorter than asked for: those are of the first bucket.
    buckets = np.searchsorted(edges[1:-1], rows[:, 0], side="right")
    by_length = [
        {"lengths": (int(edges[bucket]), int(edges[bucket + 1]) - 1), **_scores(part, task)}
        for bucket in range(len(edges) - 1)
        if len(part := rows[buckets == bucket])
    ]
    return {**_scores(rows, task), "by_length": by_length}


def _scores(rows: np.ndarray, task: Task) -> dict[str, float]:
    _, asked, loss, right = rows.sum(0).tolist()
    if task.chance is None:
        return {"loss": loss / asked, "mse": loss / asked}
    accuracy = right / asked
    scaled = scaled_accuracy(accuracy, task.chance)
    return {"loss": loss / asked, "accuracy": accuracy, "scaled_accuracy": scaled}


def _answers(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """What the model answers where it is asked, and what is right."""
    asked = torch.from_numpy(batch.asked)
    return model(torch.from_numpy(batch.inputs), asked), torch.from_numpy(batch.targets)[asked]


def _losses(answers: Tensor, targets: Tensor) -> Tensor:
    """The loss of each answer: cross entropy, or the squared error of a number."""
    if targets.is_floating_point():
        return F.mse_loss(answers.squeeze(-1), targets, reduction="none")
    return F.cross_entropy(answers, targets, reduction="none")
