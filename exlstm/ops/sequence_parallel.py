"""The time axis over processes: which group it is split over, and how all get what each knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from exlstm.shapes import Float

# A plain global for the reason given in `backend`; and blocks computed again in the backward pass
# must see it from whatever thread that runs in.
_group: dist.ProcessGroup | None = None


@contextmanager
def sequence_parallel(group: dist.ProcessGroup | None = None) -> Iterator[None]:
    """Split the time axis of `mlstm` and `causal_conv1d` over processes, in the `with` block.

    Each process holds a part of the time axis, rank 0 the first, of at least one step; the parts
    may differ in length. It calls the same ops as all others, with its part of whatever has a time
    axis. Outputs are of its own steps. States are of the whole: `state` is that before the first
    step of rank 0 and what is returned that after the last step of the last rank, both the same in
    every process. Values and gradients are those of one process with all steps.

    Every process runs the forward pass and, inside the block too, the backward pass. The loss is
    the sum of the losses of all processes: what has a time axis gets its gradient; of what every
    process has whole, weights and initial states, each gets a part, and the sum over the processes
    is the gradient. A process that has no loss of its own takes `0.0 * y.sum()`.

    What is computed for each step alone needs nothing. The `slstm` cannot be split and raises; so
    does what looks at the time axis itself, the layers like `nn.LSTM` in `exlstm.nn.rnn`, `lengths`
    and `cu_seqlens`. The block holds for every thread.

    Args:
        group: The processes in the order of time. `None` is the default group.

    Raises:
        ValueError: There is no process group, or this process is not in it.

    Example:
        >>> import torch
        >>> from exlstm.ops import mlstm
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> q, k, v, (i, f) = *torch.randn(3, 2, 10, 4, 8), torch.randn(2, 2, 10, 4)
        >>> with sequence_parallel():
        ...     h, state = mlstm(q, k, v, i, f)
        >>> torch.allclose(h, mlstm(q, k, v, i, f)[0], atol=1e-5)
        True
        >>> dist.destroy_process_group()
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError("sequence_parallel needs a process group: init_process_group makes one")
    group = dist.group.WORLD if group is None else group
    if group is None or dist.get_rank(group) < 0:
        raise ValueError("sequence_parallel: this process is not in the group")
    global _group
    before, _group = _group, group
    try:
        yield
    finally:
        _group = before


def sequence_group() -> dist.ProcessGroup | None:
    """The group that the time axis is split over, `None` outside `sequence_parallel`."""
    return _group


def refuse_parts(name: str) -> None:
    """Raise where the time axis is split, for what must see all of it."""
    if _group is not None:
        raise ValueError(
            f"{name}: not possible inside sequence_parallel, where each process has a part of the "
            "time axis; mask and reset are"
        )


def gather(x: Float[Tensor, "*S"], group: dist.ProcessGroup) -> Float[Tensor, "N *S"]:
    """What each of the N processes has as `x`, in every process. Its backward pass sums.

    All processes must differentiate it or none: what they compute from the result must be one graph
    in all of them, also where a part of the result is used by some alone.
    """
    return _Gather.apply(x, group)


class _Gather(Function):
    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        every = x.new_empty(dist.get_world_size(group), *x.shape)
        # The forms with lists: those with one tensor have another name in each version of torch.
        dist.all_gather(list(every.unbind(0)), x.contiguous(), group=group)
        return every

    @staticmethod
    @once_differentiable
    def backward(ctx, *d_outputs):  # pyright: ignore[reportIncompatibleMethodOverride]
        (d_every,) = d_outputs
        dx = d_every.new_empty(d_every.shape[1:])
        dist.reduce_scatter(dx, list(d_every.contiguous().unbind(0)), group=ctx.group)
        return dx, None
