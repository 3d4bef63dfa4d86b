"""What a training run is told: one frozen dataclass, the source of the command line as well."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from exlstm.models import PRESETS, XLSTMConfig
from exlstm.train.schedule import BatchSizes, Schedule


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
    ramp_from: int | None = None
    """Begin with batches of this many samples, doubled at equal distances over --ramp-steps."""
    ramp_steps: int = 0
    """Steps until the batch has its full size."""
    accumulate: int = 1
    """Compute a batch in this many parts, one after the other, to save memory."""
    carry_state: bool = False
    """Begin each row with the memory after the same row of the step before: the text is read in
    order, in as many lanes as --batch-size. Gradients still end where a row begins."""
    steps: int = 500
    """Optimizer steps."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    warmup_steps: int | None = None
    """Steps of linear warm-up; without it, a tenth of all steps."""
    schedule: Schedule = "cosine"
    """After the warm-up: a cosine; wsd, constant and then a linear decay; or, as for the xLSTM
    7B, exponential, and then a linear cool-down to 0."""
    min_lr_ratio: float = 0.1
    """The cosine, wsd and the exponential end at this share of the peak."""
    decay_share: float = 0.2
    """Share of all steps that the last phase has, the decay of wsd or the cool-down."""
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
    z_loss: float = 0.0
    """Weight of the mean squared log of the softmax's denominator in what is minimised, such as
    1e-4; the losses reported are without it."""
    spike_factor: float = 0.0
    """Skip steps whose gradient norm is above this many times the median of the last ones, or not
    finite; 0 applies all, and stops the run at one that is not finite."""
    spike_limit: int = 10
    """Stop the run when so many steps in a row were to be skipped."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the products and what lies between them; weights, memories and the loss stay float32."""
    compile: bool = False
    """Run the model through torch.compile."""
    activation_checkpointing: Literal["none", "cheap", "blocks"] = "none"
    """Compute again in the backward pass, to save memory: what is cheap, or whole blocks."""
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
        for name in ("eval_every", "eval_windows", "save_every", "keep", "spike_limit"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("learning_rate", "eps"):
            self._require(name, 0 < getattr(self, name) < math.inf, "a positive number")
        for name in ("weight_decay", "grad_clip", "z_loss"):
            self._require(name, 0 <= getattr(self, name) < math.inf, "0 or a positive number")
        for name in ("beta1", "beta2"):
            self._require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        self._require("min_lr_ratio", 0 <= self.min_lr_ratio <= 1, "in [0, 1]")
        self._require("seed", 0 <= self.seed < 1 << 32, "in [0, 2**32)")
        self._require(
            "warmup_steps", self.warmup_steps is None or self.warmup_steps >= 0, "0 or more"
        )
        self._require("threads", self.threads is None or self.threads >= 1, "at least 1")
        spikes = self.spike_factor == 0 or 1 < self.spike_factor < math.inf
        self._require("spike_factor", spikes, "0 or a number above 1")
        for name in ("schedule", "precision", "activation_checkpointing", "sharding"):
            choices = get_args(get_type_hints(TrainArguments)[name])
            self._require(name, getattr(self, name) in choices, f"one of {', '.join(choices)}")
        self._check_schedule()
        # A ramp changes the number of rows, and a step that is skipped may leave a NaN in memory.
        alone = not (self.carry_state and (self.ramp_from or self.spike_factor))
        self._require("carry_state", alone, "off with --ramp-from or --spike-factor")
        # Graphs around FSDP2's hooks were never seen to work here.
        apart = not (self.compile and self.sharding == "fsdp")
        self._require("compile", apart, "off with --sharding fsdp")
        self._check_ramp()
        divides = self.batches.first % self.accumulate == 0
        self._require("accumulate", divides, f"a divisor of {self.batches.first}")

    def _check_schedule(self) -> None:
        self._require("decay_share", 0 < self.decay_share <= 1, "above 0 and at most 1")
        if self.schedule == "cosine":
            return
        before = f"below {self.steps}, the steps: {self.schedule} ends with a decay"
        self._require("warmup_steps", self.warmup < self.steps, before)
        fits = self.warmup + self.decay_steps <= self.steps
        left = f"at most {1 - self.warmup / self.steps:g}: the warm-up has the other steps"
        self._require("decay_share", fits, left)
        if self.schedule == "exponential":
            self._require("min_lr_ratio", self.min_lr_ratio > 0, "above 0 for an exponential")

    def _check_ramp(self) -> None:
        if self.ramp_from is None:
            self._require("ramp_steps", self.ramp_steps == 0, "0 without --ramp-from")
            return
        ratio, rest = divmod(self.batch_size, max(1, self.ramp_from))
        doubles = self.ramp_from >= 1 and rest == 0 and ratio >= 2 and ratio & (ratio - 1) == 0
        accepted = f"{self.batch_size}, the batch size, divided by 2, 4, 8 or so"
        self._require("ramp_from", doubles, accepted)
        doublings = ratio.bit_length() - 1
        whole = self.ramp_steps > 0 and self.ramp_steps % doublings == 0
        self._require("ramp_steps", whole, f"a multiple of {doublings}, the number of doublings")
        self._require("ramp_steps", self.ramp_steps <= self.steps, f"at most {self.steps}")

    def _require(self, name: str, holds: bool, accepted: str) -> None:
        if not holds:
            raise ValueError(
                f"{name}: {getattr(self, name)} is not possible, it must be {accepted}"
            )

    @property
    def warmup(self) -> int:
        """Steps of warm-up, the default resolved."""
        return self.steps // 10 if self.warmup_steps is None else self.warmup_steps

    @property
    def decay_steps(self) -> int:
        """Steps of the last phase of the schedule."""
        return max(1, round(self.decay_share * self.steps))

    @property
    def batches(self) -> BatchSizes:
        """The batch size of every step."""
        if self.ramp_from is None:
            return BatchSizes(self.batch_size)
        doublings = (self.batch_size // self.ramp_from).bit_length() - 1
        return BatchSizes(self.ramp_from, self.ramp_steps // doublings, doublings)

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
