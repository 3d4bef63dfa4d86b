"""Lanes of a token file: each row goes on where it was, and all of the file is read."""

import collections

import numpy as np
import pytest
import torch

from exlstm.data import ByteTokenizer, Document, Lanes, write_token_files


@pytest.fixture
def make(tmp_path):
    """A file of so many tokens, in documents of 7 and all different but for their borders."""

    def make(num_tokens, context=8, lanes=3, seed=3):
        folder = tmp_path / str(num_tokens)
        folder.mkdir(exist_ok=True)
        texts = ["".join(chr(33 + (n + i) % 90) for i in range(6)) for n in range(0, num_tokens, 6)]
        whole, rest = divmod(num_tokens, 7)
        texts = [*texts[:whole], *([texts[whole][: rest - 1]] if rest else [])]
        documents = [Document(str(n), text) for n, text in enumerate(texts)]
        file = write_token_files(folder, {"train": documents}, ByteTokenizer())["train"]
        assert len(file.tokens) == num_tokens
        return Lanes(file, context, seed, lanes)

    return make


@pytest.mark.parametrize("num_tokens", [24, 25, 47, 48, 49, 200, 1003])
def test_a_row_goes_on_where_it_was_and_lanes_share_nothing(make, num_tokens):
    lanes = make(num_tokens)
    assert lanes.per_epoch == 3 * lanes.per_lane
    assert 0 <= num_tokens - 8 * lanes.per_epoch < 3 * 8
    ring = np.concatenate([lanes.file.tokens[:]] * 2)
    for epoch in range(4):
        read = []
        for row in range(3):
            samples = [3 * (epoch * lanes.per_lane + step) + row for step in range(lanes.per_lane)]
            starts = [lanes.start(sample) for sample in samples]
            assert starts == [(starts[0] + 8 * n) % num_tokens for n in range(lanes.per_lane)]
            for sample, start in zip(samples, starts, strict=True):
                assert lanes.row(sample).tolist() == ring[start : start + 9].tolist()
            read += [(start + n) % num_tokens for start in starts for n in range(8)]
        assert len(set(read)) == len(read) == 8 * lanes.per_epoch


def test_every_token_is_read_equally_often(make):
    """Within the spread of chance: no end of the file is left out."""
    lanes = make(40)
    first = 300 * lanes.per_epoch
    found = collections.Counter(
        (lanes.start(sample) + n) % 40 for sample in range(first) for n in range(8)
    )
    assert set(found) == set(range(40))
    assert max(found.values()) < 1.3 * min(found.values())


def test_an_epoch_and_a_document_begin_from_an_empty_memory(make):
    lanes = make(200)
    steps = 2 * lanes.per_lane
    for step in range(steps):
        batch = lanes.batch(range(3 * step, 3 * step + 3))
        expected = batch["inputs"] == 256
        expected[:, 0] |= step % lanes.per_lane == 0
        assert torch.equal(batch["reset"], expected)
        assert torch.equal(batch["inputs"][:, 1:], batch["targets"][:, :-1])
    assert steps == 16


def test_the_end_of_the_file_goes_on_with_its_beginning_as_a_document(make):
    lanes = make(200)
    found = 0
    for sample in range(10 * lanes.per_epoch):
        start = lanes.start(sample)
        if start > 200 - 8:
            batch = lanes.batch([sample])
            assert batch["inputs"][0, 200 - start] == 256
            assert batch["reset"][0, 200 - start]
            found += 1
    assert found > 3


def test_a_sample_is_a_function_of_its_number(make):
    together = make(1003).batch(range(300, 310))
    for row, sample in enumerate(range(300, 310)):
        for name, value in make(1003).batch([sample]).items():
            assert torch.equal(value[0], together[name][row])
    assert not torch.equal(make(1003, seed=4).batch(range(300, 310))["inputs"], together["inputs"])


def test_epochs_have_places_and_orders_of_their_own(make):
    lanes = make(1003)
    begins = [[lanes.start(lanes.per_epoch * n + row) for row in range(3)] for n in range(20)]
    assert len({tuple(starts) for starts in begins}) > 15
    orders = {tuple(np.argsort(starts).tolist()) for starts in begins}
    assert len(orders) > 3  # more than a ring turned round


def test_too_many_lanes_say_how_many_would_do(make):
    assert make(24).per_lane == 1
    with pytest.raises(ValueError, match=r"batch_size: 3 lanes are too many for 23 .* up to 2 wou"):
        make(23)
    with pytest.raises(ValueError, match=r"context: the training data has 8 tokens"):
        make(8)
