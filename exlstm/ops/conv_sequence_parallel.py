"""The causal convolution with the time axis over N processes: the window before a process's steps.

Each process tells all others the last W - 1 real steps it has, fewer where it has not as many or a
reset stands before them. The window at any border is then the last W - 1 real steps of all that
came before: each process looks them up as it did its own.

**Sent.** `(W - 1) (D + 2)` numbers for each row, once in each direction: each process receives
N - 1 times as much forward, and sends as much backward. There are no FLOPs to speak of.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from exlstm.ops.sequence_parallel import gather
from exlstm.shapes import Bool, Float


def conv_start_and_end(
    x: Float[Tensor, "B T D"],
    state: Float[Tensor, "B X D"],
    mask: Bool[Tensor, "B T"] | None,
    reset: Bool[Tensor, "B T"] | None,
    group: dist.ProcessGroup,
) -> tuple[Float[Tensor, "B X D"], Float[Tensor, "B X D"]]:
    """The window before this process's first step, and that after the last step of all.

    Args:
        x: Inputs of this process's steps, in the dtype of the state.
        state: The window before the first step of all, X = W - 1 steps.
        mask: As in `causal_conv1d`, of this process's steps.
        reset: The same.
        group: The processes in the order of time.
    """
    width = state.shape[1]
    if width == 0:
        return state, state
    flag = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    mask, reset = ~flag if mask is None else mask, flag if reset is None else reset
    steps, real = _last_real(x, mask, reset, width)
    # A reset anywhere empties the window of the processes before: as one before the first step.
    emptied = F.pad(reset.any(1, keepdim=True), (0, width - 1))
    flags = torch.stack((real, emptied), dim=-1).to(x.dtype)
    every = gather(torch.cat((steps, flags), dim=-1), group)  # N B X D+2

    def window(before: int) -> Float[Tensor, "B X D"]:
        """The window after so many processes. Of none it is one graph with others: see `gather`."""
        steps = every[:before].transpose(0, 1).flatten(1, 2)
        real, emptied = (steps[..., -2:] > 0.5).unbind(-1)
        real, emptied = F.pad(real, (width, 0), value=1), F.pad(emptied, (width, 0))
        return _last_real(torch.cat((state, steps[..., :-2]), 1), real, emptied, width)[0]

    return window(dist.get_rank(group)), window(every.shape[0])


def _last_real(
    x: Float[Tensor, "B S D"], mask: Bool[Tensor, "B S"], reset: Bool[Tensor, "B S"], number: int
) -> tuple[Float[Tensor, "B X D"], Bool[Tensor, "B X"]]:
    """The last real steps behind all resets, oldest first, and which of them there are.

    Where there are fewer than `number`, X, zeros stand before them.
    """
    segment = reset.cumsum(1)
    real = mask & (segment == segment[:, -1:])
    missing = max(number - x.shape[1], 0)
    x, real = F.pad(x, (0, 0, missing, 0)), F.pad(real, (missing, 0))
    position = torch.arange(1, x.shape[1] + 1, device=x.device)
    index = (real * position).topk(number, dim=1).indices.flip(1)
    real = real.gather(1, index)
    steps = x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))
    return steps.masked_fill(~real[..., None], 0.0), real
