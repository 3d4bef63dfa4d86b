"""Time and memory per generated token, against how much was read before."""

from __future__ import annotations

import statistics
import time

import torch
from record import record, require_green
from torch.utils._pytree import tree_flatten

from exlstm.models import XLSTMConfig, XLSTMLanguageModel

CONTEXTS = (64, 512, 4096, 16384)
REPEATS = 30

require_green("tests/models/test_generation.py")
torch.manual_seed(0)
config = XLSTMConfig(vocab_size=32000, d_model=768, pattern="mmmmms" * 2)
model = XLSTMLanguageModel(config).eval()
rows = []
with torch.inference_mode():
    states = {}
    for context in CONTEXTS:
        state = None
        for _ in range(context // 64):
            _, state = model(torch.randint(config.vocab_size, (1, 64)), state)
        states[context] = state
    times: dict[int, list[float]] = {context: [] for context in CONTEXTS}
    token = torch.tensor([[1]])
    for _ in range(REPEATS):  # in turn, so that what else the machine does hits all alike
        for context in CONTEXTS:
            start = time.perf_counter()
            model(token, states[context])
            times[context].append(time.perf_counter() - start)
for context in CONTEXTS:
    leaves = tree_flatten(states[context])[0]
    rows.append(
        {
            "context": context,
            "milliseconds": round(1e3 * statistics.median(times[context]), 2),
            "state_bytes": sum(leaf.numel() * leaf.element_size() for leaf in leaves),
        }
    )
record("decoding", {"parameters": config.num_params(), "pattern": config.pattern, "rows": rows})
