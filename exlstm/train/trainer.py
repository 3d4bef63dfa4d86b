"""The engine: `transformers.Trainer` with our data, optimizer, evaluation and checkpoints."""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from exlstm.data import Mixture, TokenFile, Tokenizer, Windows, cut, fixed_windows
from exlstm.models import XLSTMLanguageModel, load_model
from exlstm.models.checkpoint import write_config
from exlstm.models.tensor_files import write_index
from exlstm.train import checkpoint as checkpoints
from exlstm.train.arguments import TrainArguments
from exlstm.train.carried import gathered, load_memory
from exlstm.train.loss import WithLoss
from exlstm.train.metrics import MetricsLog
from exlstm.train.optimizer import adamw
from exlstm.train.processes import gather, stop_together
from exlstm.train.progress import Progress
from exlstm.train.schedule import learning_rate_factor
from exlstm.train.sharded import files_of, gather_own, reshard, set_whole, shard
from exlstm.train.spikes import SpikeGuard, not_finite


class LanguageModelTrainer(Trainer):
    """Trains a language model on windows of a token file.

    What `transformers.Trainer` lacks, and this has: batches as a function of (seed, step, rank),
    checkpoints without pickles that are complete or absent, a resume that is exact on a CPU, and
    a stop before a step that is not finite, or a guard that skips it.

    Args:
        model: the model to train.
        arguments: of the run.
        windows: the training data.
        validation: the validation data.
        tokenizer: saved with every checkpoint.
        training_arguments: of `engine_arguments`.
    """

    # The loss is the mean over one part of a batch: the Trainer divides by the number of parts.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: XLSTMLanguageModel,
        arguments: TrainArguments,
        windows: Windows | Mixture,
        validation: TokenFile,
        tokenizer: Tokenizer,
        training_arguments: TrainingArguments,
    ) -> None:
        self.language_model = model
        self.arguments = arguments
        self.windows = windows
        self.validation = validation
        self.tokenizer = tokenizer
        self.metrics: MetricsLog | None = None
        self.progress: Progress | None = None
        self.stop_requested = False
        self.step_began = 0.0
        self.step_loss = 0.0
        self.step_skipped = False
        self.spikes = SpikeGuard(arguments.spike_factor) if arguments.spike_factor else None
        self.writer = checkpoints.CheckpointWriter(arguments.out, arguments.keep)
        if arguments.compile:
            # One graph for each shape: which ones came before a resume must not matter.
            model.compile(dynamic=False)
        self._with_loss = WithLoss(model, arguments.accumulate, arguments.z_loss)
        self._shards = arguments.sharding == "fsdp" and training_arguments.world_size > 1
        if self._shards:
            shard(self._with_loss, model.stack.blocks, training_arguments.device)
        super().__init__(
            model=self._with_loss, args=training_arguments, callbacks=[_Schedule(self)]
        )
        if self._shards:
            # As for an evaluation: all but the wrapping in DDP, which FSDP2 takes the place of.
            prepare = functools.partial(self.accelerator.prepare_model, evaluation_mode=True)
            self.accelerator.prepare_model = prepare
        self.remove_callback(PrinterCallback)

    def say(self, text: str) -> None:
        """Print a line, in process 0 only and above the progress bar."""
        if self.progress is not None:
            self.progress.say(text)
        elif self.args.process_index == 0:
            print(text, flush=True)

    def get_train_dataloader(self) -> Any:
        """Return the batches of this process, from the step after the last one done."""
        return _Batches(self)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make AdamW over the paper's parameter groups."""
        if self.optimizer is None:
            self.optimizer = adamw(
                self.language_model,
                learning_rate=self.arguments.learning_rate,
                weight_decay=self.arguments.weight_decay,
                betas=(self.arguments.beta1, self.arguments.beta2),
                eps=self.arguments.eps,
            )
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Make the schedule as it stands after the steps done: it has no state of its own."""
        optimizer = self.optimizer if optimizer is None else optimizer
        for group in optimizer.param_groups:
            group["initial_lr"] = self.arguments.learning_rate
        factor = functools.partial(
            learning_rate_factor,
            steps=num_training_steps,
            warmup=self.arguments.warmup,
            min_ratio=self.arguments.min_lr_ratio,
            schedule=self.arguments.schedule,
            decay_steps=self.arguments.decay_steps,
        )
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, factor, last_epoch=self.state.global_step - 1
        )
        return self.lr_scheduler

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        # The last call before the optimizer's step: nothing has been changed yet.
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # The loss of all processes, so that all decide the same.
        loss = cast("torch.Tensor", self.accelerator.reduce(self._tr_loss, "mean"))
        self.step_loss = float(loss)
        judge = not_finite if self.spikes is None else self.spikes.judge
        reason = judge(self.step_loss, float(grad_norm))
        self.step_skipped = reason is not None
        if reason is not None:
            self._skip(model, reason)
        return grad_norm

    def _skip(self, model: nn.Module, reason: str) -> None:
        """Leave the weights and the optimizer as they are in this step, or give the run up."""
        step = self.state.global_step + 1
        skipped = 1 if self.spikes is None else self.spikes.skipped_in_a_row
        if self.spikes is None or skipped >= self.arguments.spike_limit:
            others = f", like the {skipped - 1} before it" if skipped > 1 else ""
            raise FloatingPointError(
                f"{reason} at step {step}, which was not applied{others}; "
                f"{checkpoints.say_last(self.arguments.out)}; a lower --learning-rate may help"
            )
        self.say(f"step {step:,} is skipped: {reason}")
        model.zero_grad()  # an optimizer passes over what has no gradient
        self._tr_loss.zero_()  # the Trainer subtracts it from itself, which keeps a NaN

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Report a step; the Trainer's summary at the end is left to the caller."""
        if "loss" not in logs:
            return
        step, loss = self.state.global_step, self.step_loss
        tokens = self.arguments.batches.at(step - 1) * self.arguments.context
        if self.metrics is not None:
            self.metrics.add(
                step,
                loss=loss,
                bits_per_byte=loss * self.windows.bits_per_byte,
                learning_rate=logs["learning_rate"],
                grad_norm=logs["grad_norm"],
                tokens_per_second=round(tokens / (time.perf_counter() - self.step_began), 1),
                **({"skipped": True} if self.step_skipped else {}),
            )
        if self.progress is not None:
            self.progress.step(step, loss)
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Return the mean loss over the fixed validation windows, also in bits per byte."""
        starts, length = fixed_windows(
            self.validation, self.arguments.context, self.arguments.eval_windows
        )
        first_start = starts[:1]
        rounds = math.ceil(len(starts) / self.args.world_size)
        starts = starts[self.args.process_index :: self.args.world_size]
        size = self.args.per_device_train_batch_size
        model = self._with_loss.eval()
        total = 0.0
        with torch.no_grad():
            for first in range(0, rounds, size):
                part = starts[first : first + size]
                # Under FSDP2 all processes take part in every call, also who has nothing left.
                rows = part if len(part) else first_start
                batch = self._prepare_inputs(cut(self.validation, rows, length))
                total += float(model(**batch)["loss"]) * len(part)
        sums = torch.tensor([total, len(starts)], device=self.args.device, dtype=torch.float32)
        total, windows = cast("torch.Tensor", self.accelerator.reduce(sums, "sum")).tolist()
        loss = total / windows
        metrics = {
            "validation_loss": loss,
            "validation_bits_per_byte": loss * self.validation.bits_per_byte,
        }
        if self.metrics is not None:
            self.metrics.add(self.state.global_step, **metrics)
        if self.progress is not None:
            self.progress.evaluation(self.state.global_step, *metrics.values())
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.metrics is not None:
            self.metrics.sync()
        step = self.state.global_step
        # The Trainer counts its epoch from where this process began.
        self.state.epoch = step / self.arguments.steps
        self.writer.wait()  # so that there are never two copies
        self.writer.begin(step, *self._checkpoint())
        if self.control.should_training_stop or not self.arguments.async_save:
            self.writer.wait()

    def _checkpoint(self) -> tuple[dict[str, dict[str, torch.Tensor]], Callable[[Path], None]]:
        """Return what this process writes: tensors by file and name, and how to write the rest."""
        reshard(self._with_loss)
        num_files = self.args.world_size if self._shards else 1
        keep = self.arguments.async_save
        weights = self.language_model.state_dict()
        moments = checkpoints.optimizer_tensors(self.language_model, self.optimizer)
        places = files_of("model", weights, num_files)
        files = gather_own(weights, places, copy=keep)
        files |= gather_own(moments, files_of("optimizer", moments, num_files), copy=keep)
        memory = None
        if self.arguments.carry_state:
            memory = gathered(self._with_loss.memory, self.accelerator.gather)
        if self.args.process_index != 0:
            return files, lambda _: None
        if memory is not None:
            files[checkpoints.MEMORY_FILE] = memory
        files[checkpoints.RANDOM_FILE] = checkpoints.random_tensors()
        state = copy.deepcopy(self.state)
        nbytes = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())

        def fill(folder: Path) -> None:
            write_config(folder, self.language_model.config)
            if num_files > 1:
                write_index(folder, places, nbytes)
            self.tokenizer.save(folder)
            state.save_to_json(str(folder / "trainer_state.json"))

        return files, fill

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        checkpoint = Path(resume_from_checkpoint)
        checkpoints.verify(checkpoint)
        loaded = load_model(checkpoint)
        theirs, ours = loaded.config.to_dict(), self.language_model.config.to_dict()
        for name in ours:
            if theirs[name] != ours[name]:
                error = f"{checkpoint} is of another model: its {name} is {theirs[name]!r}"
                stop_together(ValueError(f"{error}, that of the run {ours[name]!r}"))
        own = self.language_model.state_dict()
        for name, value in loaded.state_dict().items():
            set_whole(own[name], value)
        if self.arguments.carry_state:
            rows = part_rows(self.args, self.arguments.batch_size)
            path = checkpoint / checkpoints.MEMORY_FILE
            self._with_loss.memory = load_memory(path, rows, self.args.device)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            checkpoints.load_optimizer(Path(checkpoint), self.language_model, self.optimizer)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            checkpoints.load_random(Path(checkpoint) / checkpoints.RANDOM_FILE)


def engine_arguments(arguments: TrainArguments) -> TrainingArguments:
    """Return the Trainer's own arguments: this joins the process group, if there is one."""
    made = TrainingArguments(
        output_dir=str(arguments.out),
        # Unless told so, the processes of torchrun on a CPU would each train alone.
        use_cpu=not torch.accelerator.is_available(),
        max_steps=arguments.steps,
        gradient_accumulation_steps=arguments.accumulate,
        max_grad_norm=arguments.grad_clip,
        seed=arguments.seed,
        bf16=arguments.precision == "bfloat16",
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        ignore_data_skip=True,
        ddp_find_unused_parameters=False,
    )
    # One process drives one device; several GPUs without torchrun would become DataParallel.
    made._n_gpu = min(made.n_gpu, 1)
    made.per_device_train_batch_size = arguments.batch_size // (
        made.world_size * arguments.accumulate
    )
    return made


def part_rows(args: TrainingArguments, batch_size: int) -> list[range]:
    """Return the rows of a batch in each of the parts that this process computes."""
    size = batch_size // (args.world_size * args.gradient_accumulation_steps)
    parts = range(args.gradient_accumulation_steps)
    starts = [(part * args.world_size + args.process_index) * size for part in parts]
    return [range(start, start + size) for start in starts]


class _Batches:
    """The parts of batches this process computes, in order, without an end."""

    def __init__(self, trainer: LanguageModelTrainer) -> None:
        self._trainer = trainer

    def __iter__(self) -> Iterator[dict[str, Any]]:
        args, windows = self._trainer.args, self._trainer.windows
        arguments = self._trainer.arguments
        sizes = arguments.batches
        step = self._trainer.state.global_step
        while True:
            # The processes share the samples of a step, so their number changes no step.
            first = sizes.before(step)
            for part, rows in enumerate(part_rows(args, sizes.at(step))):
                batch = windows.batch(range(first + rows.start, first + rows.stop))
                yield {**batch, "carried_part": part} if arguments.carry_state else batch
            step += 1


class _Schedule(TrainerCallback):
    """Times every step, and says after it whether to evaluate, to save or to stop."""

    def __init__(self, trainer: LanguageModelTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if (guard := self._trainer.spikes) is not None:
            # Every checkpoint holds this part of the Trainer's state, and a resume has read it.
            guard.memory = state.stateful_callbacks.setdefault("SpikeGuard", guard.memory)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer.writer.poll()
        self._trainer.step_began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        arguments = self._trainer.arguments
        last = state.global_step == arguments.steps
        # Ctrl-C need not come to all processes in the same step, but all must stop after the same.
        stop = any(gather(self._trainer.stop_requested))
        if stop:
            self._trainer.stop_requested = True
        control.should_evaluate = last or state.global_step % arguments.eval_every == 0
        control.should_save = last or stop or state.global_step % arguments.save_every == 0
        control.should_training_stop = last or stop
        return control
