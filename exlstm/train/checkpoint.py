"""Checkpoints: folders that are complete or not there, and in which nothing is pickled."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

OPTIMIZER_FILE = "optimizer.safetensors"
RANDOM_FILE = "random.safetensors"
MEMORY_FILE = "memory.safetensors"

_NAME = re.compile(r"checkpoint-(\d{6,})")


def checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    found = [path for path in run.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the number of steps behind a checkpoint."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def write_checkpoint(run: Path, step: int, fill: Callable[[Path], None]) -> Path:
    """Make the checkpoint of `step`: `fill` writes its files, then it appears under its name.

    A process killed at any moment leaves a hidden folder that `remove_partial` takes away.
    """
    target = run / f"checkpoint-{step:06d}"
    partial = run / f".{target.name}.partial"
    partial.mkdir()
    fill(partial)
    for path in partial.iterdir():
        _sync(path)
    _sync(partial)
    partial.rename(target)
    _sync(run)
    return target


def remove_old(run: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for path in checkpoints(run)[:-keep]:
        # Renamed first: a checkpoint half removed must not be taken for a whole one.
        condemned = run / f".{path.name}.removed"
        path.rename(condemned)
        shutil.rmtree(condemned)


def remove_partial(run: Path) -> None:
    """Remove what a killed process left of checkpoints being written or removed."""
    for path in run.glob(".checkpoint-*"):
        shutil.rmtree(path)


def save_optimizer(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the optimizer's state under the names of the parameters."""
    tensors = {
        f"{key}/{name}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    save_file(tensors, path)


def load_optimizer(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the state `save_optimizer` wrote into an optimizer of the same parameters.

    Raises:
        ValueError: if the file is damaged or of another model.
    """
    parameters = dict(model.named_parameters())
    for full_name, value in read_tensors(path).items():
        key, name = full_name.split("/", 1)
        if name not in parameters or value.shape not in (parameters[name].shape, torch.Size([])):
            raise ValueError(
                f"{path} is of another model: {name} {tuple(value.shape)} has no place"
            )
        device = parameters[name].device
        optimizer.state[parameters[name]][key] = value.to(device, copy=True)


def save_random(path: Path) -> None:
    """Write the state of torch's random generators, of the CPU and of all GPUs."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda:{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    save_file(states, path)


def load_random(path: Path) -> None:
    """Restore what `save_random` wrote, as far as this machine has the devices."""
    for device, state in read_tensors(path).items():
        if device == "cpu":
            torch.set_rng_state(state)
        elif int(device.removeprefix("cuda:")) < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, device)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        ValueError: if there is no such file or it is damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); resume from another checkpoint"
        ) from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
