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

from exlstm.train.processes import num_processes, process_index


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


def files_of(stem: str, tensors: Mapping[str, Tensor], num_files: int) -> dict[str, str]:
    """Return the file of each tensor: of several the one with the least in it so far.

    Example:
        >>> list(files_of("a", {"x": torch.zeros(5), "y": torch.zeros(2)}, 2).values())
        ['a-00001-of-00002.safetensors', 'a-00002-of-00002.safetensors']
        >>> files_of("a", {"x": torch.zeros(5), "y": torch.zeros(2)}, 1)
        {'x': 'a.safetensors', 'y': 'a.safetensors'}
    """
    names = [f"{stem}-{i + 1:05}-of-{num_files:05}.safetensors" for i in range(num_files)]
    names = names if num_files > 1 else [f"{stem}.safetensors"]
    sizes, files = dict.fromkeys(names, 0), {}
    for name, tensor in tensors.items():
        files[name] = min(sizes, key=lambda file: sizes[file])
        sizes[files[name]] += tensor.numel() * tensor.element_size()
    return files


def gather_own(
    tensors: Mapping[str, Tensor], files: Mapping[str, str], *, copy: bool
) -> dict[str, dict[str, Tensor]]:
    """Return, by file and on the CPU, the whole tensors this process writes; all must call it.

    Args:
        tensors: whole, or in parts.
        files: of `files_of`; process 0 writes the first, and so on.
        copy: also of what is on the CPU and whole already, for training may go on.
    """
    own: dict[str, dict[str, Tensor]] = {}
    writers = {file: process for process, file in enumerate(sorted(set(files.values())))}
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if writers[files[name]] == process_index():
            part = own.setdefault(files[name], {})
            part[name] = whole.to("cpu", copy=copy).contiguous()
    return own
