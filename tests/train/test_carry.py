"""Truncated backpropagation: a row begins with the memory of the row before it."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from launching import finish, start
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map

from exlstm.data import ByteTokenizer, Document, Lanes, cut, prepare, write_token_files
from exlstm.models import XLSTMConfig, XLSTMLanguageModel
from exlstm.ops import MLSTMState, SLSTMState
from exlstm.testing import assert_agrees
from exlstm.train import TrainArguments, train
from exlstm.train.carried import gathered, load_memory
from exlstm.train.corpus import open_corpus
from exlstm.train.loss import WithLoss
from exlstm.train.metrics import read_metrics


@pytest.fixture
def carried(small):
    """As `small`; with an epoch of a few steps, so that one ends on the way."""

    def make(**changes):
        return small(**{"carry_state": True, "context": 300, "batch_size": 4, **changes})

    return make


def with_gradients(module, loss):
    names, parameters = zip(*module.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters)
    return {"loss": loss.detach(), **dict(zip(names, found, strict=True))}


def test_two_steps_are_one_of_twice_the_length(tmp_path):
    documents = [Document(str(n), f"document {n}: {n**9}") for n in range(30)]
    file = write_token_files(tmp_path, {"train": documents}, ByteTokenizer())["train"]
    lanes = Lanes(file, context=16, seed=0, lanes=3)
    torch.manual_seed(0)
    config = XLSTMConfig(vocab_size=257, d_model=16, pattern="msMS", num_heads=2)
    module = WithLoss(XLSTMLanguageModel(config).double())
    first, second = (lanes.batch(range(n, n + 3)) for n in (0, 3))
    double = cut(file, [lanes.start(n) for n in (0, 1, 2)], 2 * 16)
    assert double["inputs"].shape == (3, 32)
    assert double["reset"].any()

    losses = [module(**batch, carried_part=0)["loss"] for batch in (first, second)]
    want = module(**double)["loss"]
    assert_agrees({"loss": sum(losses) / 2}, {"loss": want})
    alone = module(**second)["loss"]
    assert (losses[1] - alone).abs() > 1e-4

    # The gradient ends where the row begins: that of the second half from a memory given.
    module.memory = [None]
    module(**first, carried_part=0)
    got = with_gradients(module, module(**second, carried_part=0)["loss"])
    with torch.no_grad():
        _, state = module.language_model(first["inputs"], reset=first["reset"])
    logits, _ = module.language_model(second["inputs"], state, reset=second["reset"])
    loss = F.cross_entropy(logits.flatten(0, 1), second["targets"].flatten())
    assert_agrees(got, with_gradients(module, loss))


def test_a_run_stopped_and_resumed_ends_with_the_same_bits(carried, train_up_to):
    whole = train(carried())
    arguments = carried()
    arguments = replace(arguments, out=arguments.out.with_name("stopped"))
    lanes, _ = open_corpus(carried())
    assert 4 % lanes.per_lane  # the checkpoint is in the middle of an epoch
    assert lanes.per_lane < 10

    train_up_to(7, arguments)
    result = train(replace(arguments, resume=True))
    for path in whole.checkpoint.iterdir():
        assert path.read_bytes() == (result.checkpoint / path.name).read_bytes(), path.name
    assert (whole.checkpoint / "memory.safetensors").exists()


def test_a_damaged_memory_is_refused(carried):
    arguments = carried(keep=3)
    train(arguments)
    for step in ("000008", "000010"):
        shutil.rmtree(arguments.out / f"checkpoint-{step}")
    memory = arguments.out / "checkpoint-000004" / "memory.safetensors"
    memory.write_bytes(memory.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"000004/memory.safetensors is damaged"):
        train(replace(arguments, resume=True))


def one_of_several(rank, arguments):
    train(TrainArguments.from_dict(arguments))


def assert_same_metrics(one, other):
    lines = (read_metrics(out / "metrics.jsonl") for out in (one, other))
    for line, expected in zip(*lines, strict=True):
        assert line["step"] == expected["step"]
        for name in line.keys() & {"loss", "grad_norm", "validation_loss"}:
            assert line[name] == pytest.approx(expected[name], rel=1e-5)


def test_a_run_goes_on_with_other_processes_and_parts(carried, processes):
    """One process; two from its checkpoint; one in two parts from theirs."""
    one = carried(dropout=0.0, keep=3)
    train(one)
    two = replace(one, out=one.out.with_name("two"), resume=True)
    shutil.copytree(one.out, two.out)
    for step in ("000008", "000010"):
        shutil.rmtree(two.out / f"checkpoint-{step}")
    assert finish(start(processes, one_of_several, two.to_dict())) == [0, 0]
    assert_same_metrics(two.out, one.out)
    shutil.rmtree(two.out / "checkpoint-000010")
    train(replace(two, accumulate=2))
    assert_same_metrics(two.out, one.out)


def test_rows_are_those_of_the_batch_whoever_has_them(tmp_path):
    config = XLSTMConfig(vocab_size=9, d_model=16, pattern="sM", num_heads=2)
    model = XLSTMLanguageModel(config)
    _, memory = model(torch.randint(9, (8, 5)))

    def rows(first, last):
        return tree_map(lambda part: part[first:last], memory)

    # Two processes, two parts: rows 0 1 and 4 5 are of the first, 2 3 and 6 7 of the second.
    later = iter(tree_leaves((rows(2, 4), rows(6, 8))))
    path = tmp_path / "memory.safetensors"
    found = gathered([rows(0, 2), rows(4, 6)], lambda own: torch.cat([own, next(later)]))
    save_file(found, path)
    for part, wanted in ((range(2, 4), rows(2, 4)), (range(6, 8), rows(6, 8))):
        (loaded,) = load_memory(path, [part], torch.device("cpu"))
        assert [type(block.cell) for block in loaded] == [SLSTMState, MLSTMState]
        for got, want in zip(tree_leaves(loaded), tree_leaves(wanted), strict=True):
            assert torch.equal(got, want)


def test_what_does_not_go_together_is_refused(carried, corpus, tmp_path):
    for name in ("web", "code"):
        prepare([corpus], tmp_path / name, workers=1)
    mixture = carried(data=f"{tmp_path / 'web'}=1,{tmp_path / 'code'}=1")
    with pytest.raises(ValueError, match="carry_state: not possible with a mixture; prepare one"):
        train(mixture)
    with pytest.raises(ValueError, match=r"batch_size: 64 lanes are too many for .* up to \d+ wou"):
        train(carried(batch_size=64))
    assert not (mixture.out / "run.json").exists()


def test_a_run_is_resumed_as_it_began_also_one_older_than_the_setting(small):
    arguments = small()
    train(arguments)
    path = arguments.out / "run.json"
    run = json.loads(path.read_text())
    del run["settings"]["carry_state"]
    path.write_text(json.dumps(run))
    assert train(replace(arguments, resume=True)).steps == 10
    with pytest.raises(ValueError, match=r"carry_state: True is not what the run .* with, False"):
        train(replace(arguments, carry_state=True, resume=True))
