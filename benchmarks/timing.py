"""Timing of alternatives beside each other, and the ceilings of the machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def medians(
    candidates: dict[str, Callable[[], object]],
    repeats: int = 7,
    budget: float = 2.0,
    least: int = 3,
) -> dict[str, float]:
    """Median seconds of each candidate, run in turn so that what else happens hits all alike.

    Args:
        candidates: Name to what is timed.
        repeats: Rounds, after one that warms up.
        budget: Seconds a candidate may take in all before it sits out the rounds that are left.
        least: Times each is measured however long it takes. With 0, the round that warms up is all
            there is of a candidate that it takes over the budget.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in range(repeats + 1):
        for name, run in candidates.items():
            if round_ > least and sum(times[name]) > budget:
                continue
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken[1:] or taken) for name, taken in times.items()}


def with_gradients(
    run: Callable[[], torch.Tensor], leaves: list[torch.Tensor]
) -> Callable[[], object]:
    """`run` and the gradient of all leaves under a fixed random functional of its output."""
    weights = torch.randn_like(run())

    def forward_and_backward() -> None:
        torch.autograd.grad(run(), leaves, weights)

    return forward_and_backward


def without_gradients(run: Callable[[], object]) -> Callable[[], object]:
    """`run` under `no_grad`."""

    def forward() -> None:
        with torch.no_grad():
            run()

    return forward


def ceilings() -> dict[str, float]:
    """What this machine does at best, now: a large matrix product and a large copy, float32."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    x, y = torch.randn(2**26), torch.empty(2**26)
    seconds = medians({"matmul": lambda: a @ b, "copy": lambda: y.copy_(x)}, repeats=9)
    return {
        "matmul_gflops": 2 * 2048**3 / seconds["matmul"] / 1e9,
        "copy_gbytes": 2 * 4 * 2**26 / seconds["copy"] / 1e9,
    }
