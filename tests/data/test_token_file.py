"""Token files, and the windows training cuts from them."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exlstm.data import (
    ByteTokenizer,
    Document,
    Windows,
    corpus_digest,
    cut,
    fixed_windows,
    open_token_file,
    token_file,
    write_token_file,
)

DOCUMENTS = [Document("a", "first"), Document("b", "zweites, ü"), Document("c", "3rd")]
BYTES = ByteTokenizer()


@pytest.fixture
def make(tmp_path):
    def make(num_tokens):
        text = "".join(chr(33 + n % 90) for n in range(num_tokens - 1))
        return write_token_file(tmp_path / f"{num_tokens}.bin", [Document("a", text)], BYTES)

    return make


def test_every_document_comes_after_an_end_of_document(tmp_path):
    file = write_token_file(tmp_path / "train.bin", DOCUMENTS, BYTES)
    expected = [token for d in DOCUMENTS for token in (256, *d.text.encode())]
    assert file.tokens.tolist() == expected
    assert file.tokens.dtype == np.uint16
    assert file.num_bytes == sum(len(d.text.encode()) for d in DOCUMENTS)
    index = json.loads((tmp_path / "train.bin.json").read_text())
    assert index["documents"] == [["a", 0], ["b", 6], ["c", 18]]


def test_nats_per_token_become_bits_per_byte(tmp_path):
    file = write_token_file(tmp_path / "train.bin", [Document("a", "1234567")], BYTES)
    # A uniform guess: ln 257 nats for each of 8 tokens, over 7 bytes.
    assert math.log(257) * file.bits_per_byte == pytest.approx(math.log2(257) * 8 / 7)


def test_a_long_document_is_tokenised_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(token_file, "_PIECE", 10)
    text = "one line\n\nanother\nü" * 20
    file = write_token_file(tmp_path / "train.bin", [Document("a", text)], BYTES)
    assert file.tokens[1:].tolist() == list(text.encode())
    assert file.num_bytes == len(text.encode())


def test_large_vocabularies_take_four_bytes(tmp_path):
    class Large(ByteTokenizer):
        vocab_size = 70_000
        end_of_document = 69_999

    file = write_token_file(tmp_path / "train.bin", DOCUMENTS, Large())
    assert file.tokens.dtype == np.uint32
    assert file.tokens[0] == 69_999


def test_the_same_documents_are_not_tokenised_again(tmp_path, monkeypatch):
    path = tmp_path / "train.bin"
    first = write_token_file(path, DOCUMENTS, BYTES)
    with monkeypatch.context() as patch:
        patch.setattr(ByteTokenizer, "encode", None)
        assert write_token_file(path, DOCUMENTS, BYTES).digest == first.digest
    changed = [*DOCUMENTS[:2], Document("c", "3rD")]
    assert write_token_file(path, changed, BYTES).tokens[-1] == ord("D")


def test_the_digest_sees_names_texts_their_borders_and_the_tokenizer():
    class Other(ByteTokenizer):
        fingerprint = "other"

    digests = {
        corpus_digest(DOCUMENTS, BYTES),
        corpus_digest(DOCUMENTS, Other()),
        corpus_digest(DOCUMENTS[:2], BYTES),
        corpus_digest(DOCUMENTS[::-1], BYTES),
        corpus_digest([Document("a", "bc")], BYTES),
        corpus_digest([Document("ab", "c")], BYTES),
    }
    assert len(digests) == 6


def test_a_truncated_or_foreign_file_is_refused(tmp_path):
    path = tmp_path / "train.bin"
    with pytest.raises(ValueError, match=r"train.bin is no token file"):
        open_token_file(path)
    write_token_file(path, DOCUMENTS, BYTES)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="has 43 bytes where its index says 44; delete both"):
        open_token_file(path)


@given(st.integers(1, 400), st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_the_permutation_is_one(size, seed, epoch):
    sent = [token_file.permuted(index, size, (seed, epoch)) for index in range(size)]
    assert sorted(sent) == list(range(size))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        tuple(token_file.permuted(index, 50, key) for index in range(50))
        for key in [(0, 0), (0, 1), (1, 0), (1, 1)]
    }
    assert len(orders) == 4


@pytest.mark.parametrize("num_tokens", [9, 10, 15, 16, 17, 23, 24, 25, 100, 1003])
def test_windows_of_an_epoch_do_not_overlap_and_stay_inside(make, num_tokens):
    windows = Windows(make(num_tokens), context=8, seed=3)
    phases = set()
    for epoch in range(40):
        first = epoch * windows.per_epoch
        starts = sorted(windows.start(first + n) for n in range(windows.per_epoch))
        assert starts == list(range(starts[0], starts[0] + 8 * windows.per_epoch, 8))
        assert starts[0] >= 0
        assert starts[-1] + 9 <= num_tokens
        phases.add(starts[0])
    assert len(phases) == min(8, num_tokens - 8 * windows.per_epoch)


def test_a_sample_is_a_function_of_its_number(make):
    file = make(1003)
    windows = Windows(file, context=8, seed=3)
    together = windows.batch(range(300, 310))
    for row, sample in enumerate(range(300, 310)):
        alone = Windows(file, context=8, seed=3).batch([sample])
        for name, value in alone.items():
            assert torch.equal(value[0], together[name][row])
    other = replace(windows, seed=4).batch(range(300, 310))
    assert not torch.equal(other["inputs"], together["inputs"])


def test_targets_are_the_next_tokens_and_resets_the_document_starts(tmp_path):
    file = write_token_file(tmp_path / "train.bin", DOCUMENTS, BYTES)
    batch = cut(file, [0, 4], 6)
    assert batch["inputs"].tolist() == [[256, *b"first"], [*b"st", 256, *b"zwe"]]
    assert batch["targets"].tolist() == [[*b"first", 256], [*b"t", 256, *b"zwei"]]
    assert batch["reset"].int().tolist() == [[1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]
    assert batch["inputs"].dtype == torch.int64


def test_too_little_data_says_what_would_fit(make):
    assert Windows(make(9), context=8, seed=0).per_epoch == 1
    with pytest.raises(
        ValueError, match=r"context: the training data has 8 tokens, .* up to 7 would fit"
    ):
        Windows(make(8), context=8, seed=0)


def test_fixed_windows_spread_over_the_file(make):
    assert fixed_windows(make(101), 10, most=4) == ([0, 20, 50, 70], 10)
    assert fixed_windows(make(101), 10, most=99) == (list(range(0, 100, 10)), 10)
    assert fixed_windows(make(6), 10, most=99) == ([0], 5)


def test_documents_come_back_as_they_went_in(tmp_path):
    documents = [Document("a", "hi"), Document("b", ""), Document("c", "!")]
    file = write_token_file(tmp_path / "a.bin", documents, ByteTokenizer())
    assert [part.tolist() for part in file.documents()] == [[256, 104, 105], [256], [256, 33]]
