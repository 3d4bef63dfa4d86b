"""What `exlstm train` costs beside a bare loop: the same model, the same batches, step by step.

After each step of the engine a copy of the model takes the same step in a bare loop: forward, loss,
backward, clip, AdamW. All that the engine does from the end of one step to the end of the next is
counted, the batch, the reports and the checks included; the bare loop is handed its batches.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from record import record, require_green
from transformers import TrainerCallback

from exlstm.data import Tokenizer, load_split, load_tokenizer, write_token_files
from exlstm.models import XLSTMLanguageModel
from exlstm.train import TrainArguments
from exlstm.train.corpus import open_corpus
from exlstm.train.metrics import MetricsLog, read_metrics
from exlstm.train.optimizer import adamw
from exlstm.train.progress import Progress
from exlstm.train.trainer import LanguageModelTrainer, engine_arguments

WARM_UP = 3
SIZES = ((8, 256), (1, 256))  # B T


class BareLoop(TrainerCallback):
    """Takes every step of the engine once more, in a loop with nothing around it."""

    def __init__(self, trainer: LanguageModelTrainer) -> None:
        arguments = trainer.arguments
        self.model = copy.deepcopy(trainer.language_model)
        self.grad_clip = arguments.grad_clip
        self.optimizer = adamw(
            self.model, learning_rate=arguments.learning_rate, weight_decay=arguments.weight_decay,
            betas=(arguments.beta1, arguments.beta2), eps=arguments.eps,
        )  # fmt: skip
        size = arguments.batch_size
        self.batches = [
            trainer.windows.batch(range(step * size, (step + 1) * size))
            for step in range(arguments.steps)
        ]
        self.losses: list[float] = []
        self.seconds: dict[str, list[float]] = {"engine": [], "bare": []}
        self.began = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        start = time.perf_counter()
        self.seconds["engine"].append(start - self.began)
        loss = self.step(**self.batches[state.global_step - 1])
        self.began = time.perf_counter()
        self.seconds["bare"].append(self.began - start)
        self.losses.append(loss.item())

    def step(
        self, inputs: torch.Tensor, targets: torch.Tensor, reset: torch.Tensor
    ) -> torch.Tensor:
        logits, _ = self.model(inputs, reset=reset)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss


def row(out: Path, tokenizer: Tokenizer, batch: int, context: int, steps: int) -> dict[str, Any]:
    """Both at one size, step by step in turn."""
    # A constant learning rate, and an evaluation and a checkpoint only after the last step.
    arguments = TrainArguments(
        out=out, pattern="msmsms", d_model=256, batch_size=batch, context=context, steps=steps,
        warmup_steps=0, min_lr_ratio=1.0, eval_windows=1, eval_every=steps, save_every=steps,
    )  # fmt: skip
    engine = engine_arguments(arguments)
    torch.manual_seed(arguments.seed)
    model = XLSTMLanguageModel(arguments.model_config(tokenizer.vocab_size))
    trainer = LanguageModelTrainer(model, arguments, *open_corpus(arguments), tokenizer, engine)
    trainer.metrics = MetricsLog(out / "metrics.jsonl", 0)
    trainer.progress = Progress(steps, 0, lambda step: step * batch * context)
    bare = BareLoop(trainer)
    trainer.add_callback(bare)
    trainer.train()
    trainer.progress.close()
    trainer.metrics.close()
    losses = [line["loss"] for line in read_metrics(out / "metrics.jsonl")]
    assert losses == bare.losses, "the two do not take the same steps"
    medians = {name: statistics.median(taken[WARM_UP:]) for name, taken in bare.seconds.items()}
    return {
        "B": batch,
        "T": context,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": steps,
        "bare_milliseconds": round(1e3 * medians["bare"], 1),
        "engine_milliseconds": round(1e3 * medians["engine"], 1),
        "overhead": round(medians["engine"] / medians["bare"] - 1, 4),
    }


if __name__ == "__main__":
    require_green("tests/train/test_packing.py")
    rows = []
    tokenizer = load_tokenizer("bytes")
    split = load_split(None, None)
    for batch, context in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "data").mkdir()
            documents = {"train": split.train[:100], "val": split.validation[:10]}
            write_token_files(Path(folder) / "data", documents, tokenizer)
            rows.append(row(Path(folder), tokenizer, batch, context, steps=20))
            print(rows[-1], flush=True)
    record("training", {"rows": rows})
