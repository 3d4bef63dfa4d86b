"""Tokenizers: what goes in comes out, whole or piece by piece."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exlstm.data import ByteTokenizer, load_tokenizer, stream_text

TEXT = "Grüße, 世界! 🙂 done"


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["hello world, hello there"] * 20, trainer)
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(params=["bytes", "file"])
def tokenizer(request, tokenizer_json):
    return load_tokenizer("bytes" if request.param == "bytes" else tokenizer_json)


def test_text_comes_back(tokenizer):
    ids = tokenizer.encode(TEXT)
    assert ids.dtype == "int64"
    assert ids.max() < tokenizer.vocab_size
    assert tokenizer.decode(ids) == TEXT


def test_streaming_gives_the_same_text_and_no_half_characters(tokenizer):
    stream = tokenizer.stream()
    pieces = [stream.push(int(token)) for token in tokenizer.encode(TEXT)]
    assert "".join(pieces) == TEXT
    assert not any("\ufffd" in piece for piece in pieces)
    assert stream.finish() == ""


def test_streaming_shows_an_unfinished_character_at_the_end(tokenizer):
    stream = tokenizer.stream()
    pieces = [stream.push(int(token)) for token in tokenizer.encode("a世")[:-1]]
    assert "".join(pieces) == "a"
    assert stream.finish() == "\ufffd"


def test_the_end_of_a_document_has_no_text(tokenizer):
    end = tokenizer.end_of_document
    assert tokenizer.decode([*tokenizer.encode("ab"), end]) == "ab"
    assert tokenizer.stream().push(end) == ""


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert type(again) is type(tokenizer)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_bytes_are_utf8(text):
    assert ByteTokenizer().encode(text).tolist() == list(text.encode())


def test_the_name_of_a_special_token_in_a_text_is_text(tokenizer_json):
    tokenizer = load_tokenizer(tokenizer_json)
    assert tokenizer.end_of_document == 0
    ids = tokenizer.encode("say <|endoftext|>")
    assert 0 not in ids
    assert tokenizer.decode(ids) == "say <|endoftext|>"


def test_a_vocabulary_without_an_end_gets_one(tokenizer_json, tmp_path):
    text = tokenizer_json.read_text().replace("<|endoftext|>", "<|other|>")
    (tmp_path / "tokenizer.json").write_text(text)
    known = load_tokenizer(tokenizer_json)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.end_of_document == known.vocab_size
    assert tokenizer.vocab_size == known.vocab_size + 1
    assert tokenizer.decode([*tokenizer.encode("hello"), tokenizer.end_of_document]) == "hello"


def test_a_hugging_face_folder_is_read_by_its_tokenizer_json(tokenizer_json):
    (tokenizer_json.parent / "tokenizer_config.json").write_text(json.dumps({"type": "other"}))
    found = load_tokenizer(tokenizer_json.parent)
    assert found.fingerprint == load_tokenizer(tokenizer_json).fingerprint


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match='tokenizer: there is no gpt2; give "bytes"'):
        load_tokenizer("gpt2")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is no tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_streamed_text_ends_before_the_first_stop_string():
    tokenizer = ByteTokenizer()
    text = "one two\n\nthree\n\n\nfour"
    for stop, expected in [
        ([], text),
        (["\n\n\n"], "one two\n\nthree"),
        (["ree", "two\n"], "one "),
        (["nowhere"], text),
    ]:
        assert "".join(stream_text(tokenizer, text.encode(), stop)) == expected


def test_streamed_text_asks_for_no_token_after_the_stop_string():
    tokens = iter(b"a.b")
    assert list(stream_text(ByteTokenizer(), tokens, ["."])) == ["a", ""]
    assert list(tokens) == list(b"b")


def test_streamed_text_comes_as_soon_as_it_is_certain():
    pieces = list(stream_text(ByteTokenizer(), "abné".encode(), ["ne"]))
    assert pieces == ["a", "b", "né"]


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match="stop: '' is empty"):
        list(stream_text(ByteTokenizer(), b"a", [""]))
