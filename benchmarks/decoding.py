"""Time and memory per generated token, against how much was read before, beside peers.

Everything runs in one process, in turn. A peer that is not installed is a row that says so; see
`requirements-peers.txt`. Weights are random: time does not depend on them.
"""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from record import record, require_green
from timing import medians
from torch import nn
from torch.utils._pytree import tree_flatten

from exlstm.models import XLSTMConfig, XLSTMLanguageModel, quantize

CONTEXTS = (64, 4096, 16384)
PIECE = 512  # tokens read at once
MINUTE = 60.0
VOCABULARY, WIDTH, BLOCKS = 32000, 768, 12
LARGE = XLSTMConfig(vocab_size=VOCABULARY, d_model=WIDTH, pattern="M" * BLOCKS)
PAPER = XLSTMConfig(vocab_size=VOCABULARY, d_model=WIDTH, pattern="mmmmms" * 2)
TOKEN = torch.tensor([[1]])


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model after so many tokens, ready for the next.

    Attributes:
        model: What it is called.
        weights: How its weights are stored.
        parameters: How many it has.
        context: Tokens read.
        step: Decodes one token; `None` if it cannot be measured.
        state_bytes: Size of what it remembers.
        missing: Why it cannot be measured.
    """

    model: str
    weights: str
    parameters: int | None = None
    context: int | None = None
    step: Callable[[], object] | None = None
    state_bytes: int | None = None
    missing: str | None = None


def ours(name: str, config: XLSTMConfig, kinds: tuple[str, ...]) -> Iterator[Candidate]:
    """The model as it is built (`nn.Linear`), or as `quantize` stores it."""
    built = XLSTMLanguageModel(config).eval()
    states, state = {}, None
    for context, pieces in _pieces():
        for piece in pieces:
            _, state = built(piece, state, last_only=True)
        states[context] = state
    for kind in kinds:
        model = built
        if kind != "nn.Linear":
            model = quantize(copy.deepcopy(built), kind)  # pyright: ignore[reportArgumentType]
        for context, state in states.items():
            yield Candidate(
                model=name,
                weights="float32, nn.Linear" if kind == "nn.Linear" else kind,
                parameters=config.num_params(),
                context=context,
                step=lambda model=model, state=state: model(TOKEN, state),
                state_bytes=_bytes(state),
            )


def their_xlstm(dtype: torch.dtype) -> Iterator[Candidate]:
    """The xLSTM of transformers, whose blocks are those of the package `xlstm` if that is there."""
    from transformers import xLSTMConfig, xLSTMForCausalLM

    config = xLSTMConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=BLOCKS, num_heads=4
    )
    model = xLSTMForCausalLM(config).eval().to(dtype)
    version = f"transformers {importlib.metadata.version('transformers')} xLSTM"
    if importlib.util.find_spec("xlstm") is not None:
        version += f", xlstm {importlib.metadata.version('xlstm')}"
    about = Candidate(model=version, weights=_name(dtype), parameters=_count(model))
    cache, began = None, time.perf_counter()
    for context, pieces in _pieces():
        for piece in pieces:
            if time.perf_counter() - began > MINUTE:
                missing = "reading takes more than a minute"
                yield replace(about, context=context, missing=missing)
                break
            cache = model(piece, cache_params=cache, use_cache=True).cache_params
        else:
            mine = copy.deepcopy(cache)  # it is written to
            yield replace(
                about,
                context=context,
                step=lambda mine=mine: model(TOKEN, cache_params=mine, use_cache=True),
                state_bytes=_bytes(mine.rnn_state),
            )


def their_llama(dtype: torch.dtype) -> Iterator[Candidate]:
    """A transformer of that size. Its cache is filled with noise: reading would take too long."""
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    heads = WIDTH // 64
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=2048,
        num_hidden_layers=BLOCKS,
        num_attention_heads=heads,
        max_position_embeddings=2 * max(CONTEXTS),
    )
    model = LlamaForCausalLM(config).eval().to(dtype)
    version = f"transformers {importlib.metadata.version('transformers')} Llama"
    for context in CONTEXTS:
        cache = DynamicCache()
        for block in range(BLOCKS):
            keys, values = (torch.randn(1, heads, context, 64, dtype=dtype) for _ in range(2))
            cache.update(keys, values, block)

        def step(cache: DynamicCache = cache) -> None:
            model(TOKEN, past_key_values=cache, use_cache=True)
            cache.crop(-1)  # a view: it costs nothing

        yield Candidate(
            model=version,
            weights=_name(dtype),
            parameters=_count(model),
            context=context,
            step=step,
            state_bytes=2 * BLOCKS * context * WIDTH * dtype.itemsize,
        )


def candidates() -> Iterator[Candidate]:
    yield from ours("exlstm, 7B blocks", LARGE, ("nn.Linear", "float32", "bfloat16", "int8"))
    yield from ours("exlstm, paper's blocks", PAPER, ("float32", "int8"))
    for name, peer in (("xLSTM", their_xlstm), ("Llama", their_llama)):
        for dtype in (torch.float32, torch.bfloat16):
            if importlib.util.find_spec("transformers") is None:
                what = f"transformers {name}"
                yield Candidate(model=what, weights=_name(dtype), missing="not installed")
            else:
                yield from peer(dtype)


def _pieces() -> Iterator[tuple[int, Iterator[torch.Tensor]]]:
    """Each context, with what is to be read to reach it from the one before."""
    before = 0
    for context in CONTEXTS:
        yield context, iter(torch.randint(VOCABULARY, (1, context - before)).split(PIECE, dim=1))
        before = context


def _bytes(state: Any) -> int:
    leaves = [leaf for leaf in tree_flatten(state)[0] if isinstance(leaf, torch.Tensor)]
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    require_green("tests/models/test_generation.py", "tests/models/test_quantization.py")
    torch.manual_seed(0)
    with torch.inference_mode():
        measured = list(candidates())
        steps = {str(i): c.step for i, c in enumerate(measured) if c.step is not None}
        seconds = medians(steps, repeats=20, budget=180.0)
    rows = []
    for i, candidate in enumerate(measured):
        names = ("model", "weights", "parameters", "context", "state_bytes", "missing")
        row = {name: getattr(candidate, name) for name in names}
        if str(i) in seconds:
            row["milliseconds"] = round(1e3 * seconds[str(i)], 2)
        rows.append({name: value for name, value in row.items() if value is not None})
        print(rows[-1], flush=True)
    record("decoding", {"rows": rows})
