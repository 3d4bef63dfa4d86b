"""What the processes of a run say to each other."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import distributed as dist


def process_index() -> int:
    """Return which of the processes this is; 0 if it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_processes() -> int:
    """Return how many there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(value: Any) -> list[Any]:
    """Return the values of all processes, in order; none goes on before all have come here.

    Example:
        >>> gather("alone")
        ['alone']
    """
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def stop_together(error: Exception) -> NoReturn:
    """End all processes, each calling this: process 0 raises the error, the others say nothing."""
    if process_index() == 0:
        raise error
    # An exit code here would let torchrun kill process 0 before it has spoken.
    raise SystemExit(0)
