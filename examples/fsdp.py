"""xLSTM under plain FSDP2 and torch's own checkpoints: nothing of our engine, only torch.

    torchrun --nproc-per-node 2 examples/fsdp.py --out first
    torchrun --nproc-per-node 4 examples/fsdp.py --out second --resume first

It learns a file byte by byte. A step has the same samples on any number of processes. Each process
writes its parts of the tensors, as safetensors: nothing is pickled.
"""

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

from exlstm.models import XLSTMConfig, XLSTMLanguageModel

CONFIG = XLSTMConfig(vocab_size=256, d_model=32, pattern="msMS", num_heads=2)
BATCH_SIZE, CONTEXT = 12, 32


def batch(text: torch.Tensor, step: int) -> torch.Tensor:
    """The samples of a step that are for this process."""
    generator = torch.Generator().manual_seed(step)
    starts = torch.randint(len(text) - CONTEXT, (BATCH_SIZE,), generator=generator)
    own = starts.chunk(dist.get_world_size())[dist.get_rank()]
    return text[own[:, None] + torch.arange(CONTEXT + 1)]


def state(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """All tensors of a run by name, for `dcp` to write or to read into."""
    moments = {
        f"{key}/{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }
    return {**model.state_dict(), **moments}


def train(text: torch.Tensor, steps: int, out: Path, resume: Path | None = None) -> list[float]:
    """Train from step 0, or from a checkpoint, up to `steps`; return the losses."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    torch.manual_seed(0)
    model = XLSTMLanguageModel(CONFIG)
    for block in model.stack.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    done = 0
    if resume is not None:
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()  # makes the moments, to be read into
        dcp.load(state(model, optimizer), storage_reader=dcp.HuggingFaceStorageReader(str(resume)))
        done = int(next(iter(optimizer.state.values()))["step"])
    losses = []
    for step in range(done, steps):
        tokens = batch(text, step).to(device)
        logits, _ = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean = loss.detach() / dist.get_world_size()
        dist.all_reduce(mean)
        losses.append(float(mean))
    partial = out.with_name(f".{out.name}.partial")  # never half a checkpoint under its name
    writer = dcp.HuggingFaceStorageWriter(str(partial), save_distributed=True)
    dcp.save(state(model, optimizer), storage_writer=writer)
    if dist.get_rank() == 0:
        partial.rename(out)
    dist.barrier()
    return losses


def main() -> None:
    """Run one of the processes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", type=Path, default=Path(__file__))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path)
    arguments = parser.parse_args()
    text = torch.tensor(list(arguments.text.read_bytes()))
    dist.init_process_group()
    losses = train(text, arguments.steps, arguments.out, arguments.resume)
    if dist.get_rank() == 0 and losses:
        print(f"loss {losses[0]:.3f} at the first step, {losses[-1]:.3f} at the last")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
