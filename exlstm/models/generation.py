"""Generation, one token at a time, from a memory of constant size."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from exlstm.models.language import XLSTMLanguageModel
from exlstm.shapes import Float

PREFILL_LENGTH = 512
"""Tokens of the prompt read at once, so that memory does not grow with the prompt."""


@torch.inference_mode()
def generate(
    model: XLSTMLanguageModel,
    prompt: Sequence[int],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: Collection[int] = (),
) -> Iterator[int]:
    """Continue a prompt, yielding each token as soon as it is drawn.

    Time and memory per token do not depend on how much was read before.

    Args:
        model: The model; it should be in evaluation mode.
        prompt: Token ids, at least one.
        max_new_tokens: When to stop at the latest.
        temperature: Divides the logits; 0 takes the most likely token.
        top_k: Draw among the k most likely tokens only.
        top_p: Draw among the most likely tokens that together have this probability only.
        seed: Makes the draw repeatable. `None` draws from torch's global generator.
        stop: Tokens that end the text; they are not yielded.

    Raises:
        ValueError: An argument is out of its range, or a token not in the vocabulary.

    Example:
        >>> from exlstm.models import XLSTMConfig
        >>> model = XLSTMLanguageModel(XLSTMConfig(vocab_size=257, d_model=32, pattern="ms"))
        >>> len(list(generate(model, [72, 105], 5, seed=0)))
        5
    """
    vocab_size = model.config.vocab_size
    _check(prompt, vocab_size, max_new_tokens, temperature, top_k, top_p)
    return _generate(model, prompt, max_new_tokens, temperature, top_k, top_p, seed, stop)


def _check(
    prompt: Sequence[int],
    vocab_size: int,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> None:
    if len(prompt) == 0:
        raise ValueError("the prompt is empty: give at least one token to start from")
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        raise ValueError(
            f"prompt has tokens from {min(prompt)} to {max(prompt)}, "
            f"the model knows 0 to {vocab_size - 1}"
        )
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be at least 0, got {max_new_tokens}")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be at least 0, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")


@torch.inference_mode()
def _generate(
    model: XLSTMLanguageModel,
    prompt: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    stop: Collection[int],
) -> Iterator[int]:
    device = model.embedding.weight.device
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    tokens = torch.tensor([list(prompt)], device=device)
    first, *rest = tokens.split(PREFILL_LENGTH, dim=1)
    logits, state = model(first, last_only=True)
    for piece in rest:
        logits, state = model(piece, state, last_only=True)
    for _ in range(max_new_tokens):
        token = sample(logits[0, -1], temperature, top_k, top_p, generator)
        if token in stop:
            return
        yield token
        logits, state = model(torch.tensor([[token]], device=device), state)


def sample(
    logits: Float[Tensor, " A"],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator | None,
) -> int:
    """Draw a token; `generate` documents the arguments."""
    if temperature == 0:
        return int(logits.argmax())
    logits = logits / temperature
    if top_k is not None:
        least = logits.topk(min(top_k, len(logits))).values[-1]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = logits.softmax(-1)
    if top_p is not None:
        ordered, order = probabilities.sort(descending=True)
        # A token is kept if those before it fall short of top_p, so that one always is.
        beyond = ordered.cumsum(-1) - ordered >= top_p
        probabilities = probabilities.index_fill(0, order[beyond], 0.0)
    return int(torch.multinomial(probabilities, 1, generator=generator))
