"""Who runs an op: choose, explain, `use_backend`.

Each op has several implementations with one signature, fastest first in the table below. With
`backend=None` the first that supports the call runs; a *name* runs that one or raises. The choice
depends on device, dtype and sizes only, never on values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from exlstm.ops import head_norm_native, linear_onednn, native
from exlstm.ops.block_linear_native import block_linear_native
from exlstm.ops.block_linear_reference import block_linear_reference
from exlstm.ops.checks import compute_dtype
from exlstm.ops.conv_native import conv_native
from exlstm.ops.conv_reference import conv_reference
from exlstm.ops.head_norm_reference import head_norm_reference
from exlstm.ops.mlstm_chunkwise import mlstm_chunkwise
from exlstm.ops.mlstm_native import mlstm_native
from exlstm.ops.mlstm_reference import mlstm_parallel, mlstm_recurrent
from exlstm.ops.mlstm_scan import mlstm_scan
from exlstm.ops.mlstm_triton import mlstm_triton
from exlstm.ops.slstm_native import slstm_native
from exlstm.ops.slstm_reference import slstm_recurrent
from exlstm.ops.slstm_scan import slstm_scan
from exlstm.ops.slstm_sequential import slstm_sequential
from exlstm.ops.slstm_triton import slstm_triton
from exlstm.ops.triton_support import triton_problem

PARALLEL_LIMIT = 4 * 2**30
"""Bytes of a T x T matrix above which the parallel form is refused: it would exhaust memory."""


Watcher = Callable[[str, tuple[Tensor, ...], tuple[Any, ...], Any], None]
"""Given an op's name and tensors, and what its implementation was called with and returned."""


class BackendError(ValueError):
    """A backend was named that does not exist or cannot run the call."""


@dataclass(frozen=True)
class Implementation:
    """One way to run an op.

    Attributes:
        name: What `backend=` calls it.
        run: The function.
        refuse: Given the op's tensors, why this one cannot run them, or `None` if it can.
        yields: Given the op's tensors, why one below it is faster for them, or `None` if this one
            is. It then still runs by name.
        only_by_name: Why it is never chosen, if it is not.
    """

    name: str
    run: Callable[..., Any]
    refuse: Callable[..., str | None] = lambda *tensors: None
    yields: Callable[..., str | None] = lambda *tensors: None
    only_by_name: str | None = None


def _refuse_large(q: Tensor, *rest: Tensor) -> str | None:
    batch, time, heads, _ = q.shape
    size = batch * heads * time * time * (8 if q.element_size() == 8 else 4)
    if size <= PARALLEL_LIMIT:
        return None
    return f"its {time} x {time} matrices need {size / 2**30:.1f} GiB each; 'chunkwise' does not"


def _widened(run: Callable[..., Any]) -> Callable[..., Any]:
    """An implementation that computes in one dtype, given tensors of any."""

    def widened(*arguments: Any) -> Any:
        return run(*map(_wide, arguments))

    return widened


def _wide(argument: Any) -> Any:
    if isinstance(argument, Tensor) and argument.is_floating_point():
        return argument.to(compute_dtype(argument))
    return argument


_UNPROVEN = "it has not been proven on a GPU yet: it runs by name only"

_IMPLEMENTATIONS: dict[str, tuple[Implementation, ...]] = {
    "mlstm": (
        Implementation("native", _widened(mlstm_native), native.refuse),
        Implementation("triton", mlstm_triton, triton_problem, only_by_name=_UNPROVEN),
        Implementation("chunkwise", _widened(mlstm_chunkwise)),
        Implementation("parallel", _widened(mlstm_parallel), _refuse_large),
        Implementation("reference", _widened(mlstm_recurrent)),
        Implementation("scan", _widened(mlstm_scan)),
    ),
    "slstm": (
        Implementation("native", _widened(slstm_native), native.refuse),
        Implementation("triton", slstm_triton, triton_problem, only_by_name=_UNPROVEN),
        Implementation("sequential", _widened(slstm_sequential)),
        Implementation("reference", _widened(slstm_recurrent)),
        Implementation("scan", _widened(slstm_scan)),
    ),
    "causal_conv1d": (
        Implementation("native", conv_native, native.refuse),
        Implementation("reference", conv_reference),
    ),
    "head_norm": (
        Implementation(
            "native",
            head_norm_native.head_norm_native,
            native.refuse_mixed,
            head_norm_native.yields,
        ),
        Implementation("reference", head_norm_reference),
    ),
    "block_linear": (
        Implementation("native", block_linear_native, native.refuse_mixed),
        Implementation("reference", block_linear_reference),
    ),
    "linear": (
        Implementation(
            "onednn", linear_onednn.linear_onednn, linear_onednn.refuse, linear_onednn.yields
        ),
        Implementation("reference", F.linear),
    ),
}

# Plain globals, not ContextVars: torch.compile guards on them, and cannot trace the others.
_forced: tuple[str, ...] = ()
_watchers: tuple[Watcher, ...] = ()
_watchers_change = Lock()


def backends(op: str) -> tuple[str, ...]:
    """The names `backend=` accepts for an op, fastest first.

    Example:
        >>> backends("slstm")
        ('native', 'triton', 'sequential', 'reference', 'scan')
    """
    return tuple(implementation.name for implementation in _implementations(op))


def explain(op: str, *tensors: Tensor) -> dict[str, str]:
    """Say for each backend of an op whether it can run these tensors, and if not, why.

    Args:
        op: Its name, such as `"mlstm"`.
        *tensors: The op's tensors, in the order of its signature.

    Returns:
        Backend name to `"ok"` or the reason against it, fastest first; the first `"ok"` runs.

    Raises:
        ValueError: There is no such op.

    Example:
        >>> import torch
        >>> explain("slstm", torch.zeros(1, 2, 1, 4, 8), torch.zeros(1, 8, 4, 8))["sequential"]
        'ok'
    """
    return {
        implementation.name: implementation.refuse(*tensors)
        or implementation.only_by_name
        or implementation.yields(*tensors)
        or "ok"
        for implementation in _implementations(op)
    }


@contextmanager
def use_backend(*names: str) -> Iterator[None]:
    """Run every op by the first of these backends that it has, inside the `with` block.

    Ops that have none of them are not affected. A `backend=` in a call wins. For tests, debugging
    and exports: it holds for every thread.

    Args:
        *names: Names from `backends`.

    Raises:
        BackendError: No op has a backend of one of the names.

    Example:
        >>> with use_backend("scan", "reference"):  # the convolution has no "scan"
        ...     pass
    """
    known = sorted({name for op in _IMPLEMENTATIONS for name in backends(op)})
    if unknown := [name for name in names if name not in known]:
        raise BackendError(f"backend {unknown[0]!r} does not exist: use one of {', '.join(known)}")
    global _forced
    before, _forced = _forced, names
    try:
        yield
    finally:
        _forced = before


@contextmanager
def watch(watcher: Watcher) -> Iterator[None]:
    """Call `watcher` after each run of an op inside the `with` block; for `exlstm.inspect`.

    It sees the calls of every thread.
    """
    global _watchers
    with _watchers_change:
        _watchers = (*_watchers, watcher)
    try:
        yield
    finally:
        with _watchers_change:
            _watchers = tuple(other for other in _watchers if other is not watcher)


def _watched(run: Callable[..., Any], op: str, tensors: tuple[Tensor, ...]) -> Callable[..., Any]:
    watchers = _watchers

    def run_and_tell(*arguments: Any) -> Any:
        results = run(*arguments)
        for watcher in watchers:
            watcher(op, tensors, arguments, results)
        return results

    return run_and_tell


def choose(op: str, backend: str | None, *tensors: Tensor) -> Callable[..., Any]:
    """Return the function that runs an op on these tensors.

    Raises:
        BackendError: `backend` was named and does not exist or cannot run them.
    """
    if backend is None and _forced:
        backend = next((name for name in _forced if name in backends(op)), None)
    for implementation in _implementations(op):
        if backend not in (None, implementation.name):
            continue
        if backend is None and implementation.only_by_name:
            continue
        # A compiled call costs little whoever runs it, and a question about sizes would be a guard:
        # a graph for each answer, and no export with a size left open.
        asks = backend is None and not torch.compiler.is_compiling()
        if asks and implementation.yields(*tensors):
            continue
        reason = implementation.refuse(*tensors)
        if reason is None:
            run = implementation.run
            return _watched(run, op, tensors) if _watchers else run
        if backend is not None:
            raise BackendError(f"backend {backend!r} cannot run this {op}: {reason}")
    raise BackendError(f"{op} has no backend {backend!r}: use one of {', '.join(backends(op))}")


def _implementations(op: str) -> tuple[Implementation, ...]:
    if op not in _IMPLEMENTATIONS:
        raise ValueError(f"no op {op!r}: use one of {', '.join(_IMPLEMENTATIONS)}")
    return _IMPLEMENTATIONS[op]
