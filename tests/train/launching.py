"""Processes that talk by gloo, as under torchrun, without the time it takes."""

import contextlib
import importlib
import io
import os
import signal
import socket
import sys
import time
from multiprocessing.connection import wait
from pathlib import Path

import torch

from exlstm.cli import main
from exlstm.train import run


def launch(context, argv, num_processes=2, victim=None):
    """Start `exlstm` with these arguments in several processes and return them.

    `victim` is a process, a function and which call of it: that process kills itself before. With
    an action as a fourth, it does that instead. What process N says is in N.err beside the run.
    """
    return start(context, _exlstm, argv, victim, num_processes=num_processes)


def start(context, body, *args, num_processes=2):
    """Start `body(rank, *args)`, which may return an exit code, in several processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(num_processes):
        target = (rank, num_processes, port, body, args)
        started.append(context.Process(target=_one, args=target))
        started[-1].start()
    return started


def finish(processes):
    """Wait for all; once one has died by a signal, kill the others. Return the exit codes."""
    left = list(processes)
    while left:
        wait([process.sentinel for process in left])
        left = [process for process in left if process.exitcode is None]
        if any((process.exitcode or 0) < 0 for process in processes):
            for process in left:
                process.kill()
    return [process.exitcode for process in processes]


def command(arguments, **changes):
    """The command line of a run."""
    argv = ["train"]
    for name, value in {**arguments, **changes}.items():
        if value not in (None, False):
            argv += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return argv


def wait_for_step(out, step, processes):
    path = out / "metrics.jsonl"
    while not (path.exists() and path.read_text().count("\n") >= step):
        assert all(process.is_alive() for process in processes)
        time.sleep(0.001)


def _one(rank, num_processes, port, body, args):
    if num_processes > 1:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(num_processes),
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1",
        )  # fmt: skip
    code = body(rank, *args)
    if not code and torch.distributed.is_initialized():
        with contextlib.suppress(RuntimeError):  # process 0 has gone with its error
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()
    sys.exit(code)


def _exlstm(rank, argv, victim):
    run._FSDP_ON_CPU = True
    if victim is not None and victim[0] == rank:
        _, place, *action = victim
        before_call(*place, *(action or [kill]))
    importlib.import_module("exlstm.train.trainer")  # what its libraries say then is not ours
    said = Path(argv[argv.index("--out") + 1]).parent / f"{rank}.err"
    silent = contextlib.redirect_stdout(io.StringIO())
    with said.open("w") as file, contextlib.redirect_stderr(file), silent:
        return main(argv)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def before_call(module, name, call, action):
    """Do something before the `call`-th call of a function."""
    *owner_names, name = name.split(".")
    owner = importlib.import_module(module)
    for part in owner_names:
        owner = getattr(owner, part)
    original, calls = getattr(owner, name), iter(range(1, 1_000_000))

    def patched(*args, **kwargs):
        if next(calls) == call:
            action()
        return original(*args, **kwargs)

    setattr(owner, name, patched)
