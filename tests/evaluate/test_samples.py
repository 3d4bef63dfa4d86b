import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from exlstm.data import ByteTokenizer
from exlstm.evaluate import Domain, pick_beginnings, sample_texts
from exlstm.evaluate.samples import CONTINUATION, PROMPT, Beginning, distinct, repetition
from exlstm.models import XLSTMConfig, XLSTMLanguageModel, generate

BYTES = ByteTokenizer()


@pytest.fixture
def model() -> XLSTMLanguageModel:
    torch.manual_seed(0)
    return XLSTMLanguageModel(XLSTMConfig(vocab_size=257, d_model=16, pattern="m")).eval()


def document(text: str) -> np.ndarray:
    return np.array([256, *text.encode()])


def bits_per_byte(model: XLSTMLanguageModel, pairs: list[tuple[str, str]]) -> float:
    total, count = 0.0, 0
    for prompt, text in pairs:
        tokens = torch.from_numpy(document(prompt + text))
        logits, _ = model(tokens[None, :-1])
        losses = F.cross_entropy(logits[0], tokens[1:], reduction="none")
        total += losses[len(prompt.encode()) :].double().sum().item()
        count += len(text.encode())
    return total / math.log(2) / count


def test_beginnings_are_spread_and_cut_in_characters() -> None:
    long = "é" * (PROMPT + CONTINUATION + 7)
    domains = [
        Domain("a", [document(text) for text in ("x", "one two", "")], 8),
        Domain("b", [document(long)], len(long)),
    ]
    first, second = pick_beginnings(domains, BYTES, 2)
    assert first == Beginning("a", "one", " two")
    assert second == Beginning("b", "é" * PROMPT, "é" * CONTINUATION)
    with pytest.raises(ValueError, match="samples: 3 is not possible, there are 2 documents"):
        pick_beginnings(domains, BYTES, 3)


def test_the_texts_are_the_models_and_repeat_with_the_seed(model: XLSTMLanguageModel) -> None:
    beginnings = [Beginning("a", "one ", "t" * 20), Beginning("b", "", "x y z x y z")]
    seen: list[int] = []
    samples = sample_texts(model, BYTES, beginnings, seed=3, progress=seen.append)
    again, other = (sample_texts(model, BYTES, beginnings, seed=seed) for seed in (3, 4))
    assert seen == [1, 1]
    assert samples == again
    assert samples.texts != other.texts


def test_the_statistics_are_of_both_continuations(model: XLSTMLanguageModel) -> None:
    beginnings = [Beginning("a", "one ", "t" * 20), Beginning("b", "", "x y z x y z")]
    samples = sample_texts(model, BYTES, beginnings)
    pairs = [(one.prompt, one.continuation) for one in beginnings]
    assert samples.held_out.bits_per_byte == pytest.approx(bits_per_byte(model, pairs), rel=1e-5)
    assert samples.held_out.distinct_1 == 4 / 7
    assert samples.held_out.repetition_4 == 0.0


def test_its_own_bits_are_those_of_the_tokens_it_drew(model: XLSTMLanguageModel) -> None:
    class Ascii(ByteTokenizer):
        """Decodes every token to one byte, so that tokens and bytes are as many."""

        def decode(self, ids):
            return "".join(chr(int(i) % 128) for i in ids)

    (beginning,) = beginnings = [Beginning("a", "one ", "t" * 20)]
    samples = sample_texts(model, Ascii(), beginnings, seed=1)
    tokens = list(
        generate(model, document(beginning.prompt).tolist(), 80, top_p=0.95, seed=1, stop={256})
    )
    drawn = samples.texts[0]
    assert Ascii().decode(tokens[: len(drawn)]) == drawn
    whole = torch.tensor([256, *b"one ", *tokens[: len(drawn)]])
    logits, _ = model(whole[None, :-1])
    losses = F.cross_entropy(logits[0], whole[1:], reduction="none")[4:]
    bits = losses.double().sum().item() / math.log(2) / len(drawn)
    assert samples.generated.bits_per_byte == pytest.approx(bits, rel=1e-5)


def test_distinct_and_repetition_count_runs_of_words() -> None:
    texts = ["the cat saw the cat", "a  dog\nsaw the cat"]
    assert distinct(texts, 1) == 5 / 10
    assert distinct(texts, 2) == 5 / 8
    assert repetition(["a b a b a b", "a b c"], 2) == pytest.approx((3 / 5 + 0) / 2)
    assert repetition(["a a a a a", "short"], 4) == 0.5
    assert math.isnan(distinct(["", "word"], 2))
    assert math.isnan(repetition(["a b c"]))
