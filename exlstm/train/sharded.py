"""FSDP2: weights, gradients and AdamW's moments in parts, one for each process.

On the disk there are whole tensors again, each written by one of the processes: a checkpoint made
in parts is an ordinary one, with an index, for any reader and any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from exlstm.train.processes import num_processes


def shard(model: nn.Module, blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Give every process a part of each parameter; a block is whole only while it computes."""
    mesh = init_device_mesh(device.type, (num_processes(),))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def reshard(model: nn.Module) -> None:
    """Let go of what an evaluation left whole, so that the parameters are the parts again."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def set_whole(tensor: Tensor, value: Tensor) -> None:
    """Write `value` into a tensor, or this process's part of it into its part."""
    if isinstance(tensor, DTensor):
        # Every process has the value: none is sent anything.
        value = distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)
    with torch.no_grad():
        tensor.copy_(value)


def writers_of(tensors: Mapping[str, Tensor], num_writers: int) -> dict[str, int]:
    """Return who writes each tensor: the one with the least to write so far.

    Example:
        >>> writers_of({"a": torch.zeros(5), "b": torch.zeros(2), "c": torch.zeros(2)}, 2)
        {'a': 0, 'b': 1, 'c': 1}
    """
    sizes, writers = [0] * num_writers, {}
    for name, tensor in tensors.items():
        writers[name] = sizes.index(min(sizes))
        sizes[writers[name]] += tensor.numel() * tensor.element_size()
    return writers


def gather_own(
    tensors: Mapping[str, Tensor], writers: Mapping[str, int], process: int, *, copy: bool
) -> dict[str, Tensor]:
    """Return, on the CPU, the tensors this process writes; all processes must call it.

    Args:
        tensors: whole, or in parts.
        writers: of `writers_of`.
        process: which this is.
        copy: also of what is on the CPU and whole already, for training may go on.
    """
    own = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if writers[name] == process:
            own[name] = whole.to("cpu", copy=copy).contiguous()
    return own
