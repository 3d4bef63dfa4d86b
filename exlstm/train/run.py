"""A training run from its arguments to its last checkpoint."""

from __future__ import annotations

import errno
import math
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from exlstm.data import Split, Tokenizer, load_tokenizer, write_token_files
from exlstm.data.atomic import locked
from exlstm.data.text import check_outside
from exlstm.models import XLSTMConfig, XLSTMLanguageModel, generate, load_model
from exlstm.train import checkpoint as checkpoints
from exlstm.train.arguments import TrainArguments
from exlstm.train.corpus import corpus_digests, open_corpus, read_corpus, run_tokenizer
from exlstm.train.metrics import MetricsLog, applied_steps, draw_curve, read_metrics
from exlstm.train.progress import Progress, duration
from exlstm.train.run_folder import check_folder, check_same, remove_run, settings, write_run

if TYPE_CHECKING:
    from exlstm.train.trainer import LanguageModelTrainer

_SAMPLE_TOKENS = 400
_FSDP_ON_CPU = False  # for tests: it works there and saves nothing


@dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves."""

    steps: int
    seconds: float
    """Of training, over all the processes that took part one after the other."""
    train_loss: float
    """Mean over the last tenth of the steps, skipped ones left out, nats per token."""
    validation_loss: float
    """At the last step, nats per token."""
    bits_per_byte: float
    """The validation loss in bits per byte of text."""
    checkpoint: Path
    """The newest checkpoint: a folder `exlstm.models.load_model` takes."""
    metrics: Path
    picture: Path


def train(arguments: TrainArguments) -> TrainResult:
    """Train a model, or go on with training it.

    Killed at any moment and resumed, a run on a CPU ends with the same bits as one never killed,
    given the same number of threads.

    Args:
        arguments: everything the run depends on.

    Returns:
        The losses at the end and where the files are.

    Raises:
        ValueError: if an argument, a file or the folder is not as it must be, before any step.
        OSError: if a file cannot be written, as on a full disk; the checkpoints before are whole.
        FloatingPointError: at a step whose loss or gradient is not finite; it is not applied. With
            a `spike_factor`, at the last of `spike_limit` steps skipped in a row.
        KeyboardInterrupt: after Ctrl-C, once a checkpoint is saved.
    """
    arguments.check()
    _check_processes(arguments)
    tokenizer = run_tokenizer(arguments)
    # What can be wrong with the arguments shows before anything is written.
    torch.manual_seed(arguments.seed)
    checkpointing = arguments.activation_checkpointing
    model = XLSTMLanguageModel(
        arguments.model_config(tokenizer.vocab_size),
        activation_checkpointing=None if checkpointing == "none" else checkpointing,
    )
    if int(os.environ.get("RANK", "0")) != 0:
        return _train(arguments, model, tokenizer)
    check_folder(arguments.out, resume=arguments.resume)
    for source in (arguments.data, arguments.val_data):
        check_outside(arguments.out, source)
    split = read_corpus(arguments)
    with locked(arguments.out), _full_disk_in_one_line(arguments.out):
        # Once more: another process may have begun a run here before the lock was ours.
        check_folder(arguments.out, resume=arguments.resume)
        _prepare(arguments, model.config, tokenizer, split)
        return _train(arguments, model, tokenizer)


def _check_processes(arguments: TrainArguments) -> None:
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true", "yes"):
        raise ValueError(
            "ACCELERATE_USE_FSDP: accelerate's FSDP is not supported, on a CPU it would silently "
            "be DDP; start with torchrun and --sharding fsdp instead"
        )
    if arguments.sharding == "fsdp" and not (torch.accelerator.is_available() or _FSDP_ON_CPU):
        raise ValueError("sharding: fsdp is not possible on a CPU, it must be ddp")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    smallest = arguments.batches.first
    if smallest % (processes * arguments.accumulate):
        name = "batch_size" if arguments.ramp_from is None else "ramp_from"
        raise ValueError(
            f"{name}: {smallest} is not possible with {processes} processes and "
            f"accumulate {arguments.accumulate}, it must be a multiple of their product"
        )


def _prepare(
    arguments: TrainArguments, config: XLSTMConfig, tokenizer: Tokenizer, split: Split | None
) -> None:
    """Make the folder ready: a run, with its token files, and nothing left of a killed process."""
    out = arguments.out
    settled = settings(arguments, config, *corpus_digests(arguments, tokenizer, split))
    if arguments.resume:
        check_same(out, settled)
    else:
        write_run(out, arguments, settled)
    try:
        if split is not None:
            (out / "data").mkdir(exist_ok=True)
            documents = {"train": split.train, "val": split.validation}
            write_token_files(out / "data", documents, tokenizer)
        open_corpus(arguments)
    except ValueError:
        if not arguments.resume:
            remove_run(out)
        raise
    checkpoints.remove_partial(out)


def _train(
    arguments: TrainArguments, model: XLSTMLanguageModel, tokenizer: Tokenizer
) -> TrainResult:
    from exlstm.train.trainer import LanguageModelTrainer, engine_arguments

    out = arguments.out
    engine = engine_arguments(arguments)  # waits for process 0, so the token files are there
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)  # only now: accelerate sets a number of its own
    windows, validation = open_corpus(arguments)
    trainer = LanguageModelTrainer(model, arguments, windows, validation, tokenizer, engine)
    saved = checkpoints.checkpoints(out)
    done = checkpoints.step_of(saved[-1]) if saved else 0
    with _reports(trainer, done), _ctrl_c_stops(trainer):
        parameters = sum(parameter.numel() for parameter in model.parameters())
        trainer.say(
            f"{parameters / 1e6:.2f} M parameters, {windows.num_tokens:,} training tokens, "
            f"{len(validation.tokens):,} validation tokens, on {engine.device}"
        )
        if done < arguments.steps:
            trainer.train(resume_from_checkpoint=str(saved[-1]) if saved else None)
    trainer.accelerator.wait_for_everyone()
    saved = checkpoints.checkpoints(out)
    if trainer.stop_requested and checkpoints.step_of(saved[-1]) < arguments.steps:
        trainer.say(
            f"stopped, {saved[-1]} is saved; go on with\n"
            f"  {_program()} train --resume --out {shlex.quote(str(out))}"
        )
        raise KeyboardInterrupt
    result = _result(out, saved[-1])
    trainer.say(f"a sample:\n\n{_sample(result.checkpoint, arguments.seed)}\n")
    trainer.say(_summary(result, prompt="import " if arguments.data is None else "The "))
    return result


@contextmanager
def _full_disk_in_one_line(out: Path) -> Iterator[None]:
    """Say what to do where the system says only that there is no room."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            f"out: {out} cannot be written ({error.strerror}); {checkpoints.say_last(out)}; make "
            f"room, then go on with {_program()} train --resume --out {shlex.quote(str(out))}"
        ) from None


def _sample(checkpoint: Path, seed: int) -> str:
    """A short document of the model's own."""
    tokenizer = load_tokenizer(checkpoint)
    end = tokenizer.end_of_document
    tokens = generate(
        load_model(checkpoint), [end], _SAMPLE_TOKENS, temperature=0.8, seed=seed, stop={end}
    )
    return tokenizer.decode(tokens)


@contextmanager
def _reports(trainer: LanguageModelTrainer, done: int) -> Iterator[None]:
    """Keep the metrics and the progress of process 0; draw the curve however the run ends."""
    if trainer.args.process_index != 0:
        yield
        return
    arguments = trainer.arguments
    path = arguments.out / "metrics.jsonl"
    trainer.metrics = MetricsLog(path, done)
    sizes = arguments.batches
    trainer.progress = Progress(
        arguments.steps, done, lambda step: sizes.before(step) * arguments.context
    )
    try:
        yield
    finally:
        trainer.progress.close()
        trainer.progress = None
        trainer.metrics.close()
        if applied_steps(read_metrics(path)):
            draw_curve(path, arguments.out / "loss.png", title=arguments.out.resolve().name)


@contextmanager
def _ctrl_c_stops(trainer: LanguageModelTrainer) -> Iterator[None]:
    """Let the first Ctrl-C stop the run after the step at hand, and a second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread
        return

    def stop(*_: object) -> None:
        trainer.stop_requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _result(out: Path, checkpoint: Path) -> TrainResult:
    lines = read_metrics(out / "metrics.jsonl")
    last = applied_steps(lines)[-max(1, len(lines) // 10) :]
    return TrainResult(
        steps=lines[-1]["step"],
        seconds=lines[-1]["elapsed"],
        train_loss=sum(line["loss"] for line in last) / len(last) if last else math.nan,
        validation_loss=lines[-1]["validation_loss"],
        bits_per_byte=lines[-1]["validation_bits_per_byte"],
        checkpoint=checkpoint,
        metrics=out / "metrics.jsonl",
        picture=out / "loss.png",
    )


def _summary(result: TrainResult, prompt: str) -> str:
    run = shlex.quote(str(result.checkpoint.parent))
    return (
        f"{result.steps:,} steps in {duration(result.seconds)}: training loss "
        f"{result.train_loss:.3f}, validation loss {result.validation_loss:.3f}, "
        f"{result.bits_per_byte:.3f} bits per byte\n"
        f"  checkpoint  {result.checkpoint}\n"
        f"  curve       {result.picture}\n"
        f"go on with\n"
        f'  {_program()} generate {run} --prompt "{prompt}"\n'
        f"  {_program()} evaluate {run} --data FILE_OR_FOLDER --context 64 256 1024"
    )


def _program() -> str:
    """The command as it was called, so that what is printed can be pasted."""
    called = Path(sys.argv[0])
    return shlex.quote(str(called)) if called.name == "exlstm" else "exlstm"
