"""What smaller weights cost in perplexity, and smaller averages of the optimiser in loss.

A small model is trained on text, then stored in each way and measured on documents it has not seen.
The optimisers each train the same model from the same weights on the same windows. torchao is
looked for, not required: without it, its rows say so.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from record import record, require_green
from torch import Tensor, nn

from exlstm.data import TokenFile, Windows, cut, fixed_windows, open_token_file
from exlstm.evaluate import evaluate_documents
from exlstm.models import XLSTMConfig, XLSTMLanguageModel, load_model, quantize
from exlstm.train import TrainArguments, train
from exlstm.train.optimizer import parameter_groups
from exlstm.train.schedule import learning_rate_factor

PATTERN, WIDTH, CONTEXT, BATCH, RATE = "mmsM", 128, 256, 8, 3e-3
STEPS, SHORT = 500, 100
SEEDS = (0, 1, 2)
PIECE = 4096  # bytes read of each document
NUM_DOCUMENTS = 16
WINDOWS = 128  # the optimisers are compared on so many
MISSING = "not installed"


def dense(layer: nn.Module, name: str) -> bool:
    """The matrices that `quantize` stores too: those of the gates sum up over time."""
    return isinstance(layer, nn.Linear) and not name.endswith("gates")


def dense_but_head(layer: nn.Module, name: str) -> bool:
    """Those of them whose sizes the packed int4 can take: 257 outputs it cannot."""
    return dense(layer, name) and name != "head"


def ways() -> Iterator[tuple[str, str, Callable[[XLSTMLanguageModel], Any] | None]]:
    """Name of a way to store a model, what it stores, and what does so in place."""
    matrices, body = "all large", "all large but the head"
    yield "float32", "none", lambda model: model
    yield "bfloat16, the whole model", "all", nn.Module.bfloat16
    for weights in ("bfloat16", "int8"):
        yield f"{weights}, `quantize`", matrices, lambda m, w=weights: quantize(m, w)
    if importlib.util.find_spec("torchao") is None:
        yield "int8, torchao", matrices, None
        yield "int4, torchao", body, None
        return
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    unpacked = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32))
    # In float32 the product of the packed form is tens of times slower.
    packed = PrototypeInt4WeightOnlyConfig(group_size=32)
    yield "int8, torchao", matrices, lambda m: quantize_(m, Int8WeightOnlyConfig(), dense)
    yield (
        "int4 in groups of 32, a byte each, torchao",
        body,
        lambda m: quantize_(m, unpacked, dense_but_head),
    )
    yield (
        "int4 in groups of 32, packed, torchao, in a bfloat16 model",
        "all",
        lambda m: quantize_(m.bfloat16(), packed, dense_but_head),
    )


def compressed(model: XLSTMLanguageModel, file: TokenFile) -> Iterator[dict[str, Any]]:
    """A row for each way to store the model."""
    documents = [document[: PIECE + 1] for document in file.documents()]
    documents = sorted(documents, key=len, reverse=True)[:NUM_DOCUMENTS]
    num_bytes = sum(len(document) - 1 for document in documents)
    rows = torch.from_numpy(np.stack([document[:512] for document in documents[:8]])).long()
    plain: Tensor | None = None
    for name, stored, store in ways():
        if store is None:
            yield {"what": name, "stored": stored, "missing": MISSING}
            continue
        small = copy.deepcopy(model)
        store(small)
        small.eval()
        found = evaluate_documents(small, documents, num_bytes)
        with torch.inference_mode():
            logits = small(rows)[0]
        plain = logits if plain is None else plain
        yield {
            "what": name,
            "stored": stored,
            "megabytes": round(num_stored(small) / 1e6, 3),
            "perplexity": found.perplexity,
            "bits_per_byte": found.bits_per_byte,
            "num_bytes": num_bytes,
            "logit_error": (rms(logits - plain) / rms(plain)).item(),
        }


def num_stored(model: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(map(num_bytes_of, tensors.values()))


def num_bytes_of(tensor: Tensor) -> int:
    """Bytes of a tensor; a subclass of torchao's names the tensors it is made of."""
    if type(tensor) in (Tensor, nn.Parameter):
        return tensor.nbytes
    inner = [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
    return sum(map(num_bytes_of, inner))


def rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


def optimizers() -> Iterator[tuple[str, Callable[..., torch.optim.Optimizer] | None]]:
    yield "AdamW", torch.optim.AdamW
    names = ("AdamW8bit", "AdamW4bit")
    if importlib.util.find_spec("torchao") is None:
        yield from ((f"{name}, torchao", None) for name in names)
        return
    import torchao.optim

    yield from ((f"{name}, torchao", getattr(torchao.optim, name)) for name in names)


def optimized(config: XLSTMConfig, files: tuple[TokenFile, TokenFile]) -> Iterator[dict[str, Any]]:
    """A row for each optimiser: the held-out loss at the end of a short run, for each seed."""
    for name, optimizer in optimizers():
        if optimizer is None:
            yield {"what": name, "missing": MISSING}
            continue
        losses, state = [], 0
        for seed in SEEDS:
            loss, state = short_run(config, files, optimizer, seed)
            losses.append(loss)
        yield {"what": name, "state_megabytes": round(state / 1e6, 3), "losses": losses}


def short_run(
    config: XLSTMConfig,
    files: tuple[TokenFile, TokenFile],
    optimizer: Callable[..., torch.optim.Optimizer],
    seed: int,
) -> tuple[float, int]:
    """The held-out loss after some steps, and the bytes of the optimiser's state."""
    torch.manual_seed(seed)
    model = XLSTMLanguageModel(config)
    updates = optimizer(parameter_groups(model, 0.1), lr=RATE, betas=(0.9, 0.95), eps=1e-5)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        updates,
        lambda step: learning_rate_factor(step, steps=SHORT, warmup=SHORT // 10, min_ratio=0.1),
    )
    windows = Windows(files[0], CONTEXT, seed)
    for step in range(SHORT):
        loss = window_loss(model, windows.batch(range(step * BATCH, (step + 1) * BATCH)))
        updates.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        updates.step()
        schedule.step()
    starts, length = fixed_windows(files[1], CONTEXT, WINDOWS)
    with torch.inference_mode():
        held_out = window_loss(model.eval(), cut(files[1], starts, length)).item()
    states = [part for state in updates.state.values() for part in state.values()]
    return held_out, sum(num_bytes_of(part) for part in states if isinstance(part, Tensor))


def window_loss(model: XLSTMLanguageModel, batch: dict[str, Tensor]) -> Tensor:
    logits, _ = model(batch["inputs"], reset=batch["reset"])
    return F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="a text file or a folder; else the Python library's source")
    data = parser.parse_args().data
    require_green("tests/models/test_quantization.py", "tests/ops/test_linear_onednn.py")
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainArguments(
            out=Path(folder) / "run",
            data=data,
            pattern=PATTERN,
            d_model=WIDTH,
            context=CONTEXT,
            batch_size=BATCH,
            steps=STEPS,
            learning_rate=RATE,
            threads=torch.get_num_threads(),
        )
        done = train(arguments)
        model = load_model(done.checkpoint)
        files = tuple(
            open_token_file(arguments.out / "data" / f"{n}.bin") for n in ("train", "val")
        )
        rows: dict[str, list[dict[str, Any]]] = {"weights": [], "optimizers": []}
        for row in compressed(model, files[1]):
            rows["weights"].append(row)
            print(row, flush=True)
        for row in optimized(model.config, files):  # pyright: ignore[reportArgumentType]
            rows["optimizers"].append(row)
            print(row, flush=True)
    installed = importlib.util.find_spec("torchao") is not None
    record(
        "compression",
        {
            "torchao": importlib.metadata.version("torchao") if installed else None,
            "config": {n: v for n, v in dataclasses.asdict(model.config).items() if v is not None},
            "steps": STEPS,
            "short_steps": SHORT,
            "batch_size": BATCH,
            "context": CONTEXT,
            **rows,
        },
    )
