"""The FSDP2 example: it computes what one process computes, also after a change of their number."""

import importlib.util
import json
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from torch.nn import functional as F

from exlstm.models import XLSTMLanguageModel

PATH = Path(__file__).parents[2] / "examples" / "fsdp.py"
STEPS = 50


def example():
    spec = importlib.util.spec_from_file_location("fsdp_example", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text():
    return torch.tensor(list(PATH.read_bytes()))


def one_process(rank, num_processes, port, folder, steps, resume):
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(num_processes),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    dist.init_process_group("gloo")
    losses = example().train(text(), steps, folder, resume)
    folder.with_suffix(".json").write_text(json.dumps(losses))
    dist.barrier()
    dist.destroy_process_group()


def run(num_processes, folder, steps, resume=None):
    """Train as in the example and return the losses."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["exlstm.models", "torch.distributed.fsdp"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        context.Process(target=one_process, args=(rank, num_processes, port, folder, steps, resume))
        for rank in range(num_processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * num_processes
    return json.loads(folder.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def expected():
    """The losses of a loop in one process, with no FSDP."""
    module = example()
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        batches = [module.batch(text(), step) for step in range(STEPS)]
    finally:
        dist.destroy_process_group()
    torch.manual_seed(0)
    model = XLSTMLanguageModel(module.CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for tokens in batches:
        logits, _ = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_two_processes_compute_what_one_does(expected, tmp_path):
    losses = run(2, tmp_path / "two", STEPS)
    assert losses == pytest.approx(expected, abs=1e-4)
    assert losses[-1] < losses[0] - 1
    files = sorted((tmp_path / "two").iterdir())
    assert {file.suffix for file in files} == {".safetensors"}
    assert len(files) == 2
    for file in files:
        with safe_open(file, "pt") as tensors:
            shape = tensors.get_slice("exp_avg/embedding.weight").get_shape()
        assert shape == [128, 32]


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1)])
def test_a_checkpoint_goes_on_with_another_number_of_processes(before, after, expected, tmp_path):
    first = run(before, tmp_path / "first", 10)
    second = run(after, tmp_path / "second", 20, resume=tmp_path / "first")
    assert first + second == pytest.approx(expected[:20], abs=1e-4)


def test_the_example_is_short():
    assert len(PATH.read_text().splitlines()) < 100
