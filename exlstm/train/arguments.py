"""What a training run is told: one frozen dataclass, the source of the command line as well."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from exlstm.models import PRESETS, XLSTMConfig


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """Train an xLSTM language model on text.

    Without any data given it learns the source code of the Python standard library.
    """

    out: Path
    """Folder of the run: made new, or one to go on with under --resume."""
    resume: bool = False
    """Go on from the newest checkpoint in the folder, with the arguments the run began with."""

    data: str | None = None
    """A text file, a folder, or a quoted glob such as 'notes/**/*.md'; UTF-8. Or a folder made by
    `exlstm prepare`, or several with weights: 'web=0.7,code=0.3'."""
    val_data: str | None = None
    """The same for validation; without it, about 5 % of the data is kept for that."""
    tokenizer: str | None = None
    """'bytes', or the path of a Hugging Face tokenizer.json. Without it, that of prepared data, or
    bytes."""

    preset: str | None = None
    """A published model, such as '125m-7:1', in place of the next three."""
    pattern: str = "mmsm"
    """One letter per block: m and s for the paper's mLSTM and sLSTM, M for the 7B's mLSTM, S for
    TiRex's sLSTM."""
    d_model: int = 128
    """Model width."""
    num_heads: int = 4
    """Heads per block."""
    dropout: float = 0.0
    """Share of every block's output that is dropped in training, against learning by heart."""

    context: int = 256
    """Tokens per training sample."""
    batch_size: int = 16
    """Samples per step, over all processes together."""
    accumulate: int = 1
    """Compute a batch in this many parts, one after the other, to save memory."""
    steps: int = 500
    """Optimizer steps."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    warmup_steps: int | None = None
    """Steps of linear warm-up; without it, a tenth of all steps."""
    min_lr_ratio: float = 0.1
    """The cosine ends at this share of the peak."""
    weight_decay: float = 0.1
    """Decay of matrices; biases, norms, recurrent kernels and the embedding have none."""
    beta1: float = 0.9
    """AdamW: memory of the mean of the gradient."""
    beta2: float = 0.95
    """AdamW: memory of its square."""
    eps: float = 1e-5
    """AdamW: added to the denominator."""
    grad_clip: float = 1.0
    """Largest norm of the gradient; 0 for no limit."""
    seed: int = 0
    """Seed of the initial weights and of the order of the data."""

    eval_every: int = 100
    """Steps between evaluations; the last step is always evaluated."""
    eval_windows: int = 64
    """Validation windows per evaluation, the same ones every time."""
    save_every: int = 100
    """Steps between checkpoints; the last step is always saved."""
    keep: int = 2
    """Newest checkpoints to keep."""
    async_save: bool = False
    """Write checkpoints in the background while training goes on, from a copy in memory."""
    sharding: Literal["ddp", "fsdp"] = "ddp"
    """Of several processes: ddp gives each GPU a copy of weights, gradients and AdamW's moments,
    fsdp (FSDP2) a part."""
    threads: int | None = None
    """CPU threads; without it, what torch takes."""

    def check(self) -> None:
        """Check the range of every value; `train` does so first.

        Raises:
            ValueError: if one is out of its range.
        """
        known = self.preset is None or self.preset in PRESETS
        self._require("preset", known, f"one of {', '.join(PRESETS)}")
        for name in ("d_model", "num_heads", "context", "batch_size", "accumulate", "steps"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("eval_every", "eval_windows", "save_every", "keep"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("learning_rate", "eps"):
            self._require(name, 0 < getattr(self, name) < math.inf, "a positive number")
        for name in ("weight_decay", "grad_clip"):
            self._require(name, 0 <= getattr(self, name) < math.inf, "0 or a positive number")
        for name in ("beta1", "beta2"):
            self._require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        self._require("min_lr_ratio", 0 <= self.min_lr_ratio <= 1, "in [0, 1]")
        self._require("seed", 0 <= self.seed < 1 << 32, "in [0, 2**32)")
        self._require(
            "warmup_steps", self.warmup_steps is None or self.warmup_steps >= 0, "0 or more"
        )
        self._require("sharding", self.sharding in ("ddp", "fsdp"), "ddp or fsdp")
        self._require("threads", self.threads is None or self.threads >= 1, "at least 1")
        self._require(
            "accumulate", self.batch_size % self.accumulate == 0, f"a divisor of {self.batch_size}"
        )

    def _require(self, name: str, holds: bool, accepted: str) -> None:
        if not holds:
            raise ValueError(
                f"{name}: {getattr(self, name)} is not possible, it must be {accepted}"
            )

    @property
    def warmup(self) -> int:
        """Steps of warm-up, the default resolved."""
        return self.steps // 10 if self.warmup_steps is None else self.warmup_steps

    def model_config(self, vocab_size: int) -> XLSTMConfig:
        """Return the configuration of the model to train."""
        if self.preset is not None:
            published = PRESETS[self.preset]()
            return dataclasses.replace(published, vocab_size=vocab_size, dropout=self.dropout)
        return XLSTMConfig(
            vocab_size=vocab_size,
            d_model=self.d_model,
            pattern=self.pattern,
            num_heads=self.num_heads,
            dropout=self.dropout,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments as JSON can hold them."""
        return {**dataclasses.asdict(self), "out": str(self.out)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainArguments:
        """Return the arguments `to_dict` gave.

        Raises:
            ValueError: if a name is not one of an argument.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise ValueError(f"arguments: {', '.join(unknown)} unknown to this version of exlstm")
        return cls(**{**values, "out": Path(values["out"])})
