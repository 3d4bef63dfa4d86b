"""Packed rows train as the documents in them do one by one: no state, window or label crosses."""

import copy
import random

import pytest
import torch
from torch.nn import functional as F

from exlstm.data import ByteTokenizer, Document, Windows, write_token_files
from exlstm.models import XLSTMConfig, XLSTMLanguageModel
from exlstm.testing import assert_agrees, assert_as_accurate
from exlstm.train.loss import WithLoss

SAMPLES = {16: range(20), 150: range(5)}
"""Rows by context."""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Random documents: empty ones, of one byte, and longer than a row."""
    chosen = random.Random(0)
    lengths = [0, 1, 0, 300, 1, 1, *(chosen.choice([0, 1, 2, 7, 30, 200]) for _ in range(60))]
    texts = ["".join(chosen.choices("abcde", k=length)) for length in lengths]
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    folder = tmp_path_factory.mktemp("documents")
    return write_token_files(folder, {"train": documents}, ByteTokenizer())["train"]


def make_model(pattern):
    """Weights far from the initial ones, of which some are zero."""
    torch.manual_seed(0)
    config = XLSTMConfig(vocab_size=257, d_model=16, pattern=pattern, num_heads=2)
    model = XLSTMLanguageModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def pieces(windows, samples):
    """What each row shows of each document: tokens and the ones to predict, from the documents."""
    end = windows.file.end_of_document
    found = []
    for row in map(windows.start, samples):
        for begin, document in zip(windows.file.starts, windows.file.documents(), strict=True):
            first = max(row - begin, 0)
            last = min(row + windows.context - begin, len(document))
            if first < last:
                tokens = torch.tensor([*document.tolist(), end])[None]
                found.append((tokens[:, first:last], tokens[:, first + 1 : last + 1]))
    return found


def with_gradients(model, loss):
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters)
    return {"loss": loss.detach(), **dict(zip(names, gradients, strict=True))}


def packed(model, windows, samples):
    """As a step of the trainer."""
    return with_gradients(model, WithLoss(model)(**windows.batch(samples))["loss"])


def one_by_one(model, windows, samples):
    total, count = 0.0, 0
    for inputs, targets in pieces(windows, samples):
        logits, _ = model(inputs)
        total = total + F.cross_entropy(logits[0], targets[0], reduction="sum")
        count += len(targets[0])
    assert count == len(samples) * windows.context
    return with_gradients(model, total / count)


@pytest.mark.parametrize("context", SAMPLES)
@pytest.mark.parametrize("pattern", ["ms", "MS", "sMmS"])
def test_a_packed_step_is_that_of_the_documents_one_by_one(file, pattern, context):
    windows, samples = Windows(file, context, seed=0), SAMPLES[context]
    model = make_model(pattern)
    wide = copy.deepcopy(model).double()
    truth = one_by_one(wide, windows, samples)
    assert_agrees(packed(wide, windows, samples), truth)
    plain = one_by_one(model, windows, samples)
    assert_as_accurate(packed(model, windows, samples), plain, truth, torch.float32)


@pytest.mark.parametrize("context", SAMPLES)
def test_the_rows_hold_what_could_go_wrong(file, context):
    samples = SAMPLES[context]
    found = [tokens[0].tolist() for tokens, _ in pieces(Windows(file, context, seed=0), samples)]
    assert any(tokens == [256] for tokens in found)
    assert any(tokens[0] == 256 and len(tokens) == 2 for tokens in found)
    assert any(tokens[0] != 256 for tokens in found)
    assert len(found) > len(samples) + 5
