"""Many runs in parallel processes, one line of a file for each that is done."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from exlstm.experiments.run import Run, train
from exlstm.experiments.sequence_models import SequenceModel, build_model
from exlstm.experiments.specification import find_task
from exlstm.experiments.summary import line
from exlstm.tasks import Task

Record = dict[str, Any]
"""A line of the file: the `run`, its `identity`, and either its `result` or its `error`."""

Measure = Callable[[SequenceModel, Any], Any]
"""What else is to be known of a trained model and its task, as JSON can hold it. Other processes
call it, so it must be found by its name."""


class ResultsFile:
    """A JSONL file of runs that are done.

    Attributes:
        records: By identity.
        dropped: Bytes of a last line that was half written, and was taken away.

    Raises:
        ValueError: A line is no record.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.seek(0)
        text = file.read()
        whole = text.rfind(b"\n") + 1
        self.dropped = len(text) - whole
        if self.dropped:
            file.truncate(whole)
        self.records: dict[str, Record] = {}
        for number, written in enumerate(text[:whole].splitlines(), 1):
            try:
                record = json.loads(written)
                self.records[record["identity"]] = record
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"line {number} of {file.name} is no run") from None

    def append(self, record: Record) -> None:
        """Write a line: after a crash it is there, or not there, or half there at the very end."""
        written = json.dumps(record).encode() + b"\n"
        if self._file.write(written) != len(written):
            raise OSError(f"{self._file.name}: the disk is full")
        os.fsync(self._file.fileno())
        self.records[record["identity"]] = record


@contextmanager
def results_file(path: Path) -> Iterator[ResultsFile]:
    """Open a file of results, new or not, and keep other sweeps out.

    Raises:
        ValueError: Another process has it, or it holds something else.
    """
    import fcntl  # not on Windows, where all else of this module works

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:  # a write is one call of the system
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"out: another sweep writes to {path}") from None
        yield ResultsFile(file)


def check(run: Run) -> None:
    """Make the model and the shortest rows of a run, so that a mistake shows before any run.

    Raises:
        ValueError: There is no such task, model or option, or the rule makes no such rows.
    """
    task = find_task(run.task)
    build_model(run.model, task, run.d_model)
    for name, lengths in (("lengths", run.lengths), ("test_lengths", run.test_lengths)):
        try:
            task.batch(0, 0, 1, lengths)
            task.rows(np.random.default_rng(0), np.array(lengths[:1]))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def sweep(
    runs: Sequence[Run], out: Path, *, jobs: int | None = None, measure: Measure | None = None
) -> list[Record]:
    """Do the runs that the file has no line for, each in one thread.

    A killed sweep that is started again repeats only what was not finished. Nor is a run repeated
    that failed: take its line away for that.

    Args:
        runs: What to do.
        out: A JSONL file; it may have other runs.
        jobs: Processes; `None` is one a core.
        measure: Its result becomes `measured` in the run's.

    Returns:
        The records of `runs`, in order.

    Raises:
        ValueError: A run is not possible, or the file is in use or is no file of results.
        ChildProcessError: A process was killed, perhaps for want of memory.
        KeyboardInterrupt: After Ctrl-C, at once: unfinished runs are lost.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    # One for each model and task: the learning rate and the seed make no difference.
    for run in {(run.task, run.model, run.d_model, run.lengths, run.test_lengths): run
                for run in runs}.values():  # fmt: skip
        check(run)
    with results_file(out) as results:
        if results.dropped:
            print(f"{out}: took away a last line that was half written")
        waiting = {run.identity: run for run in runs if run.identity not in results.records}
        if waiting:
            _do(list(waiting.values()), results, jobs or os.cpu_count() or 1, measure)
        return [results.records[run.identity] for run in runs]


def _do(runs: list[Run], results: ResultsFile, jobs: int, measure: Measure | None) -> None:
    from tqdm import tqdm

    context = multiprocessing.get_context("spawn")
    steps_done, stop = context.Value("q", 0), context.Event()
    with (
        tqdm(total=sum(run.steps for run in runs), unit="step", disable=None) as bar,
        ProcessPoolExecutor(
            min(jobs, len(runs)), context, initializer=_begin, initargs=(steps_done, stop)
        ) as pool,
    ):
        unfinished = {pool.submit(_record, run, find_task(run.task), measure) for run in runs}
        finished = 0
        try:
            while unfinished:
                done, unfinished = wait(unfinished, timeout=0.5, return_when=FIRST_COMPLETED)
                # A process that was killed takes all futures with it, but those that are done.
                for future in sorted(done, key=lambda one: one.exception() is not None):
                    record = future.result()
                    results.append(record)
                    finished += 1
                    bar.write(f"{finished} of {len(runs)}: {line(record)}", file=sys.stderr)
                bar.update(steps_done.value - bar.n)
        except BrokenProcessPool:
            raise ChildProcessError(
                "a process of the sweep was killed, perhaps for want of memory: with fewer --jobs "
                "the same command goes on from there"
            ) from None
        except BaseException:  # Ctrl-C above all
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


class _StoppedError(Exception):
    """The sweep is over before its time."""


class _Worker:
    """What a worker process shares with its sweep."""

    steps_done: Any
    stop: Any


def _begin(steps_done: Any, stop: Any) -> None:
    import signal

    _Worker.steps_done, _Worker.stop = steps_done, stop
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its warnings stand in the notes
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all: the sweep will tell us
    parent = multiprocessing.parent_process()
    assert parent is not None

    def die_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()


def _record(run: Run, task: Task, measure: Measure | None) -> Record:
    counted = 0

    def count(steps: int = 1) -> None:
        nonlocal counted
        if _Worker.stop.is_set():
            raise _StoppedError
        counted += steps
        with _Worker.steps_done:
            _Worker.steps_done.value += steps

    record = {"identity": run.identity, "run": asdict(run)}
    try:
        model, result = train(run, task, progress=count)
        if measure is not None:
            result["measured"] = measure(model, task)
        record["result"] = result
    except _StoppedError:
        raise
    except Exception as error:  # whatever it is, the other runs go on
        record["error"] = f"{type(error).__name__}: {error}"
        record["traceback"] = traceback.format_exc()
    count(run.steps - counted)
    return record
