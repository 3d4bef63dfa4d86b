"""A training step of a small language model beside peers of its size: tokens/s, peak memory.

A step is forward, cross entropy of the next byte, backward and a fused AdamW update, float32, the
same for all. Times are taken in one process, in turn; memory in a fresh process each. A peer that
is not installed is a row that says so; see `requirements-peers.txt`.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from record import record, require_green
from timing import medians
from torch import Tensor, nn

from exlstm.models import XLSTMConfig, XLSTMLanguageModel

VOCABULARY, WIDTH, HEADS = 257, 256, 4
PARAMETERS = 2_665_496
"""Of our model; every peer is within 3 % of it."""

Logits = Callable[[Tensor], Tensor]
"""Tokens (B, T) to logits (B, T, A)."""


def ours(
    recompute: Literal["cheap", "blocks"] | None,
) -> Callable[[int], tuple[nn.Module, Logits]]:
    """xLSTM[1:1] with the blocks of the paper."""
    config = XLSTMConfig(vocab_size=VOCABULARY, d_model=WIDTH, pattern="msmsms", num_heads=HEADS)

    def build(context: int) -> tuple[nn.Module, Logits]:
        model = XLSTMLanguageModel(config, activation_checkpointing=recompute)
        return model, lambda tokens: model(tokens)[0]

    return build


def llama(num_layers: int, d_ff: int) -> Callable[[int], tuple[nn.Module, Logits]]:
    def build(context: int) -> tuple[nn.Module, Logits]:
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=d_ff,
            num_hidden_layers=num_layers,
            num_attention_heads=HEADS,
            max_position_embeddings=context,
            attn_implementation="sdpa",
            use_cache=False,
        )
        model = LlamaForCausalLM(config)
        return model, lambda tokens: model(tokens).logits

    return build


def hf_mamba(context: int) -> tuple[nn.Module, Logits]:
    """Without the package `mamba_ssm`, which needs CUDA: a loop over time in Python."""
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=6, use_cache=False
    )
    model = MambaForCausalLM(config)
    return model, lambda tokens: model(tokens).logits


def hf_xlstm(context: int) -> tuple[nn.Module, Logits]:
    """Blocks of the 7B, no sLSTM; with a cache, its default, the backward pass raises."""
    from transformers import xLSTMConfig, xLSTMForCausalLM

    config = xLSTMConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_heads=HEADS,
        ffn_proj_factor=752 / WIDTH,
        ffn_round_up_to_multiple_of=16,
        chunkwise_kernel="chunkwise--native_autograd",
        sequence_kernel="native_sequence__native",
        step_kernel="native",
        autocast_kernel_dtype="float32",
        mode="train",
        use_cache=False,
    )
    model = xLSTMForCausalLM(config)
    return model, lambda tokens: model(tokens).logits


def nxai_xlstm(context: int) -> tuple[nn.Module, Logits]:
    """The very model that ours is, by the authors: sLSTM in PyTorch, mLSTM in T x T matrices."""
    import xlstm

    config = xlstm.xLSTMLMModelConfig(
        vocab_size=VOCABULARY,
        embedding_dim=WIDTH,
        num_blocks=6,
        slstm_at=[1, 3, 5],
        context_length=context,
        mlstm_block=xlstm.mLSTMBlockConfig(),
        slstm_block=xlstm.sLSTMBlockConfig(slstm=xlstm.sLSTMLayerConfig(backend="vanilla")),
    )
    model = xlstm.xLSTMLMModel(config)
    model.reset_parameters()
    return model, model


OURS = "exlstm, xLSTM[1:1]"
CHEAP = f"{OURS}, cheap parts computed again"
BLOCKS = f"{OURS}, blocks computed again"
MODELS: dict[str, tuple[str, Callable[[int], tuple[nn.Module, Logits]]]] = {  # with its package
    OURS: ("exlstm", ours(None)),
    CHEAP: ("exlstm", ours("cheap")),
    BLOCKS: ("exlstm", ours("blocks")),
    "transformers Llama, 4 layers": ("transformers", llama(4, 480)),
    "transformers Llama, 3 layers": ("transformers", llama(3, 760)),
    "transformers xLSTM, 7B blocks": ("transformers", hf_xlstm),
    "xlstm, xLSTM[1:1], vanilla sLSTM": ("xlstm", nxai_xlstm),
    "transformers Mamba": ("transformers", hf_mamba),
}
TRANSFORMERS = [
    OURS,
    CHEAP,
    BLOCKS,
    "transformers Llama, 4 layers",
    "transformers Llama, 3 layers",
]
LINEAR = [*TRANSFORMERS, "transformers xLSTM, 7B blocks"]
TIMED = (  # B T, who is fast enough there
    (8, 256, [*LINEAR, "xlstm, xLSTM[1:1], vanilla sLSTM", "transformers Mamba"]),
    (2, 1024, [*LINEAR, "xlstm, xLSTM[1:1], vanilla sLSTM"]),
    (1, 4096, LINEAR),
    (1, 16384, TRANSFORMERS),
)
LENGTHS = (1024, 2048, 4096, 8192, 16384)
EXACT_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""glibc gives a block of this size or more back when it is freed. With its own choice the peak has
holes of freed memory in it, and differs by 15 % from run to run."""


def training_step(model: nn.Module, logits: Logits) -> Callable[[Tensor], None]:
    """A step on tokens (B, T + 1). It leaves no gradients behind."""
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step(tokens: Tensor) -> None:
        predicted = logits(tokens[:, :-1])
        F.cross_entropy(predicted.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def num_parameters(model: nn.Module) -> int:
    """The count, held to that of our model."""
    number = sum(parameter.numel() for parameter in model.parameters())
    assert abs(number / PARAMETERS - 1) < 0.03, f"{type(model).__name__} has {number:,} parameters"
    return number


def time_rows(batch: int, time: int, names: list[str]) -> list[dict[str, Any]]:
    """Every model's step at one size, run in turn."""
    tokens = torch.randint(VOCABULARY, (batch, time + 1))
    rows: dict[str, dict[str, Any]] = {}
    steps: dict[str, Callable[[], object]] = {}
    for name in names:
        package, build = MODELS[name]
        rows[name] = {"what": name, "B": batch, "T": time}
        if importlib.util.find_spec(package) is None:
            rows[name]["missing"] = True
            continue
        model, logits = build(time)
        rows[name]["parameters"] = num_parameters(model)
        step = training_step(model, logits)
        steps[name] = lambda step=step: step(tokens)
    seconds = medians(steps, repeats=9, budget=30, least=0)
    for name, median in seconds.items():
        rows[name] |= {
            "milliseconds": round(1e3 * median, 1),
            "tokens_per_second": round(batch * time / median),
            "times": round(median / seconds[OURS], 2),
        }
    for row in rows.values():
        print(row, flush=True)
    return list(rows.values())


def memory_rows(name: str) -> list[dict[str, Any]]:
    """One model at every length, each in a process of its own: memory freed there stays freed."""
    package, _ = MODELS[name]
    if importlib.util.find_spec(package) is None:
        return [{"what": name, "missing": True}]
    rows: list[dict[str, Any]] = []
    for time in LENGTHS:
        command = [sys.executable, __file__, "memory", name, str(time)]
        done = subprocess.run(
            command, env=os.environ | EXACT_MALLOC, stdout=subprocess.PIPE, text=True, check=True
        )
        peak = int(done.stdout)
        row = {"what": name, "B": 1, "T": time, "peak_megabytes": round(peak / 1e6, 1)}
        row["kilobytes_per_token"] = round(peak / 1e3 / time, 2)
        if rows:
            row["times_half"] = round(row["peak_megabytes"] / rows[-1]["peak_megabytes"], 3)
        rows.append(row)
        print(row, flush=True)
    return rows


def peak_growth(name: str, time: int) -> int:
    """Bytes by which a step's resident memory at its peak exceeds that before it, after one step.

    What the kernel counts (Linux), not what an allocator says: work space of kernels is in it.
    """
    step = training_step(*MODELS[name][1](time))
    step(torch.randint(VOCABULARY, (1, 65)))
    tokens = torch.randint(VOCABULARY, (1, time + 1))
    Path("/proc/self/clear_refs").write_text("5")  # the peak, VmHWM, starts anew
    before = _status("VmRSS")
    step(tokens)
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    torch.manual_seed(0)
    if sys.argv[1:2] == ["memory"]:
        print(peak_growth(sys.argv[2], int(sys.argv[3])))
        sys.exit()
    require_green("tests/nn", "tests/models")
    steps = [row for batch, time, names in TIMED for row in time_rows(batch, time, names)]
    memory = [row for name in TRANSFORMERS for row in memory_rows(name)]
    record("models", {"steps": steps, "memory": memory})
