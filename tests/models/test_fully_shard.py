"""Plain `fully_shard` on our models, whatever their options; `examples/fsdp.py` has the rest."""

import multiprocessing
import socket
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

from exlstm.models import XLSTMConfig, XLSTMLanguageModel

# Three processes: no size here is a multiple of 3, and some parts are empty.
PROCESSES, STEPS = 3, 4
CONFIG = XLSTMConfig(vocab_size=32, d_model=16, pattern="msMS", num_heads=2)
VARIANTS = {
    "untied": (CONFIG, None),
    "tied": (replace(CONFIG, tie_embeddings=True), None),
    "cheap checkpointing": (CONFIG, "cheap"),
    "checkpointing of blocks": (CONFIG, "blocks"),
}


def losses(config, checkpointing, mesh=None):
    torch.manual_seed(0)
    model = XLSTMLanguageModel(config, activation_checkpointing=checkpointing)
    share = slice(None)
    if mesh is not None:
        share = slice(mesh.get_rank(), None, mesh.size())
        for block in model.stack.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(STEPS):
        tokens = torch.randint(32, (PROCESSES, 9), generator=generator)[share]
        logits, _ = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss = loss.detach()
        if mesh is not None:
            dist.all_reduce(loss)
            loss /= mesh.size()
        found.append(float(loss))
    return found


def one_process(rank, port, found):
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, PROCESSES, is_master=rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    found.put({name: losses(*variant, mesh) for name, variant in VARIANTS.items()})
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def sharded():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["exlstm.models", "torch.distributed.fsdp"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = context.SimpleQueue()
    processes = [
        context.Process(target=one_process, args=(rank, port, found)) for rank in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    return [found.get() for _ in processes]


@pytest.mark.parametrize("variant", VARIANTS)
def test_three_processes_compute_what_one_does(variant, sharded):
    expected = losses(*VARIANTS[variant])
    for found in sharded:
        assert found[variant] == pytest.approx(expected, abs=1e-4)
