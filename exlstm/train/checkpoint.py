"""Checkpoints: folders that are complete or not there, and in which nothing is pickled."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from exlstm.models.tensor_files import write_file
from exlstm.train.processes import gather, num_processes, process_index, stop_together
from exlstm.train.sharded import set_whole

RANDOM_FILE = "random.safetensors"
MEMORY_FILE = "memory.safetensors"
CHECKSUMS_FILE = "checksums.json"

_NAME = re.compile(r"checkpoint-(\d{6,})")


def checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    found = [path for path in run.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the number of steps behind a checkpoint."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def say_last(run: Path) -> str:
    """Say which checkpoint is the newest of a run."""
    saved = checkpoints(run)
    return f"the last checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"


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


class CheckpointWriter:
    """Writes the checkpoints of a run; all processes make the same calls.

    Each writes its files into a hidden folder, in a thread. The folder takes its name once all
    files of all processes are on the disk: killed at any moment, a run leaves a hidden folder that
    `remove_partial` takes away.

    Args:
        run: the folder of the run, on a disk that all processes see.
        keep: how many checkpoints stay.
    """

    def __init__(self, run: Path, keep: int) -> None:
        self._run, self._keep = run, keep
        self._thread: threading.Thread | None = None
        self._target = run
        self._checksums: dict[str, int] = {}
        self._error: Exception | None = None

    def begin(
        self, step: int, files: Mapping[str, Mapping[str, Tensor]], fill: Callable[[Path], None]
    ) -> None:
        """Begin to write the checkpoint of `step`, once the one before is complete.

        Args:
            step: number of steps done.
            files: safetensors files this process writes: nothing may write to their tensors before
                `wait` has returned.
            fill: writes what else this process has to write; called in the thread as well.

        Raises:
            OSError: as `wait`, for the checkpoint before.
        """
        self.wait()
        self._target = self._run / f"checkpoint-{step:06d}"
        self._checksums, self._error = {}, None
        self._thread = threading.Thread(target=self._write, args=(files, fill))
        self._thread.start()

    def poll(self) -> None:
        """Complete the checkpoint if everything is written; call it now and then.

        Raises:
            OSError: as `wait`.
        """
        if self._thread is not None and all(gather(not self._thread.is_alive())):
            self.wait()

    def wait(self) -> None:
        """Wait until the checkpoint that was begun, if any, is complete.

        Raises:
            OSError: in process 0, if one process could not write; the others end. What was written
                is removed.
        """
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        checksums, errors = zip(*gather((self._checksums, self._error)), strict=True)
        error = next(filter(None, errors), None)
        if process_index() == 0 and error is None:
            try:
                self._complete({name: crc for part in checksums for name, crc in part.items()})
            except OSError as failed:
                error = failed
        error = gather(error)[0]
        if error is not None:
            if process_index() == 0:
                shutil.rmtree(self._partial, ignore_errors=True)  # room, perhaps much needed
            stop_together(error)

    @property
    def _partial(self) -> Path:
        return self._run / f".{self._target.name}.partial"

    def _write(
        self, files: Mapping[str, Mapping[str, Tensor]], fill: Callable[[Path], None]
    ) -> None:
        try:
            self._partial.mkdir(exist_ok=True)
            for name, tensors in files.items():
                write_file(self._partial / name, tensors)
                self._checksums[name] = _checksum(self._partial / name)
                _sync(self._partial / name)
            fill(self._partial)
        except Exception as error:  # raised by `wait`, in the thread that can stop the run
            self._error = error

    def _complete(self, checksums: dict[str, int]) -> None:
        for path in self._partial.iterdir():
            if path.name not in checksums:  # what `fill` wrote, all of it small
                checksums[path.name] = _checksum(path)
                _sync(path)
        text = json.dumps(dict(sorted(checksums.items())), indent=2) + "\n"
        (self._partial / CHECKSUMS_FILE).write_text(text)
        _sync(self._partial / CHECKSUMS_FILE)
        _sync(self._partial)
        self._partial.rename(self._target)
        _sync(self._run)
        remove_old(self._run, self._keep)


def verify(checkpoint: Path) -> None:
    """Check that every file of a checkpoint is what was written; the processes share the work.

    Raises:
        ValueError: in process 0, if one is not; the others end.
    """
    damage = None
    path = checkpoint / CHECKSUMS_FILE
    try:
        checksums = json.loads(path.read_text())
        for name in sorted(checksums)[process_index() :: num_processes()]:
            path = checkpoint / name
            if _checksum(path) != checksums[name]:
                damage = f"{path} is damaged, it is not what was written"
    except (OSError, ValueError) as error:
        damage = f"{path} cannot be read ({error})"
    if found := next(filter(None, gather(damage)), None):
        stop_together(
            ValueError(f"{found}; remove {checkpoint.name} to resume from the checkpoint before")
        )


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state under the names of the parameters."""
    return {
        f"{key}/{name}": value
        for name, parameter in model.named_parameters()
        for key, value in sorted(optimizer.state[parameter].items())
    }


def load_optimizer(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the state that was written of `optimizer_tensors` into an optimizer.

    Raises:
        ValueError: if a file is damaged or of another model.
    """
    parameters = dict(model.named_parameters())
    for path in sorted(checkpoint.glob("optimizer*.safetensors")):
        for full_name, value in read_tensors(path).items():
            key, name = full_name.split("/", 1)
            parameter = parameters.get(name)
            if parameter is None or value.shape not in (parameter.shape, torch.Size([])):
                raise ValueError(
                    f"{path} is of another model: {name} {tuple(value.shape)} has no place"
                )
            state = parameter if value.shape == parameter.shape else value.to(parameter.device)
            optimizer.state[parameter][key] = state = torch.empty_like(state, dtype=value.dtype)
            set_whole(state, value)


def random_tensors() -> dict[str, Tensor]:
    """Return the state of torch's random generators, of the CPU and of all GPUs."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda:{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    return states


def load_random(path: Path) -> None:
    """Restore what was written of `random_tensors`, as far as this machine has the devices."""
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


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            checksum = zlib.crc32(piece, checksum)
    return checksum


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
