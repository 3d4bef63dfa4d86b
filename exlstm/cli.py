"""The command `exlstm`: one verb per job, each a typed dataclass of arguments."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

try:
    import tyro

    from exlstm.anomaly.command import AnomaliesArguments, anomalies_command
    from exlstm.claims.command import ClaimsArguments, claims
    from exlstm.data.command import PrepareArguments, run_prepare
    from exlstm.evaluate.plan import PlanArguments, print_plan
    from exlstm.evidence.command import EvidenceArguments, evidence
    from exlstm.experiments.command import TasksArguments, tasks
    from exlstm.forecast.command import ForecastArguments, forecast_command
    from exlstm.train import TrainArguments
    from exlstm.train.evaluation import EvaluateArguments
    from exlstm.train.run_folder import resumed_arguments
    from exlstm.train.scaling import ScalingArguments, scaling
    from exlstm.train.trained import load_trained, newest_checkpoint
    from exlstm.tune.command import TuneArguments, tune_command
except ModuleNotFoundError as error:
    raise SystemExit(
        f"exlstm: the command line needs {error.name}: pip install 'exlstm[lm]'"
    ) from None


@dataclass(frozen=True, kw_only=True)
class GenerateArguments:
    """Continue a text with a trained model, printing it as it comes."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A checkpoint, or a run, for its newest checkpoint."""
    prompt: str = ""
    """What to continue; without it, a new document."""
    max_tokens: int = 512
    """Stop after this many tokens; the model may end the document before."""
    temperature: float = 0.8
    """Divides the logits: 0 is the most likely text, 1 the model's own distribution."""
    top_k: int | None = None
    """Draw among the k most likely tokens only."""
    top_p: float | None = None
    """Draw among the most likely tokens that together have this probability only."""
    seed: int | None = None
    """Makes the text repeatable."""
    stop: tuple[str, ...] = ()
    """Strings that end the text; they are not printed."""
    weights: Literal["float32", "bfloat16", "int8"] | None = None
    """How the large matrices are stored: smaller is faster, and rounds them. Without it, float32,
    or as a quantised checkpoint has them."""
    threads: int | None = None
    """CPU threads; without it, what torch takes."""


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Write a trained model as ONNX files, each checked in onnxruntime, for other programs."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A checkpoint, or a run, for its newest checkpoint."""
    out: Path
    """A folder; nothing may be in it."""
    threads: int | None = None
    """CPU threads; without it, what torch takes."""


@dataclass(frozen=True, kw_only=True)
class ConvertArguments:
    """Convert a model from any published format of xLSTM weights into any other.

    The source's format is found out. Nothing is unpickled but tensors.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """A folder with weights and configuration, or a state dict of the paper's blocks alone."""
    destination: Annotated[Path, tyro.conf.Positional]
    """A new folder; it appears when it is complete."""
    to: Literal["exlstm", "nxai-cuda", "nxai-vanilla", "nxai-large", "nxai-large-fused", "hf"] = (
        "exlstm"
    )
    """The format to write: exlstm's own, NX-AI's package (the paper's blocks in either layout of
    the sLSTM, or xLSTM Large), or transformers."""


@dataclass(frozen=True, kw_only=True)
class QuantizeArguments:
    """Write a checkpoint with smaller weights, for inference only, in the memory of one matrix."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A checkpoint, or a run, for its newest checkpoint."""
    out: Annotated[Path, tyro.conf.Positional]
    """A new folder; it appears when it is complete."""
    weights: Literal["bfloat16", "int8"] = "int8"
    """How the large matrices are stored; they are rounded."""
    threads: int | None = None
    """CPU threads; without it, what torch takes."""


@dataclass(frozen=True, kw_only=True)
class DoctorArguments:
    """Say what this machine has, which implementation of each op runs, and why not the others."""


def _train(arguments: TrainArguments) -> None:
    from exlstm.train import train

    train(arguments)


def _generate(arguments: GenerateArguments) -> None:
    from exlstm.data import load_tokenizer, stream_text
    from exlstm.models import generate

    _set_threads(arguments.threads)
    folder = newest_checkpoint(arguments.checkpoint)
    model, tokenizer = load_trained(folder, arguments.weights), load_tokenizer(folder)
    end = tokenizer.end_of_document
    tokens = generate(
        model,
        [end, *tokenizer.encode(arguments.prompt).tolist()],
        arguments.max_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
        stop={end},
    )
    print(arguments.prompt, end="", flush=True)
    for text in stream_text(tokenizer, tokens, arguments.stop):
        print(text, end="", flush=True)
    print()


def _evaluate(arguments: EvaluateArguments) -> None:
    from exlstm.train.evaluation import evaluate

    _set_threads(arguments.threads)
    evaluate(arguments)


def _export(arguments: ExportArguments) -> None:
    from exlstm.data import load_tokenizer
    from exlstm.export import export_language_model
    from exlstm.models import load_model

    _set_threads(arguments.threads)
    folder = newest_checkpoint(arguments.checkpoint)
    done = export_language_model(load_model(folder), load_tokenizer(folder), arguments.out)
    print(f"{folder} as ONNX in {arguments.out}: {len(done['states'])} states, zeros to begin with")
    for name, graph in done["graphs"].items():
        print(
            f"  {name:<13} {graph['bytes'] / 1e6:8.1f} MB, off by {graph['error']:.1e} of the "
            f"largest number (PyTorch by {graph['torch_error']:.1e})"
        )


def _convert(arguments: ConvertArguments) -> None:
    from tqdm import tqdm

    from exlstm.convert import FORMATS, open_model, write_model

    model = open_model(arguments.source)
    config = model.config
    print(f"{arguments.source}: {model.format.title}, {config.num_params():,} parameters")
    print(
        f"pattern {config.pattern}, width {config.d_model}, {config.num_heads} heads, "
        f"vocabulary {config.vocab_size:,}"
    )
    with tqdm(total=model.num_bytes, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        write_model(arguments.destination, model, arguments.to, progress=bar.update)
    print(f"{arguments.destination}: {FORMATS[arguments.to].title}")


def _quantize(arguments: QuantizeArguments) -> None:
    from tqdm import tqdm

    from exlstm.data import load_tokenizer
    from exlstm.data.atomic import new_folder
    from exlstm.models import quantize_checkpoint

    _set_threads(arguments.threads)
    folder = newest_checkpoint(arguments.checkpoint)
    tokenizer = load_tokenizer(folder)
    before = _weights_bytes(folder)
    with (
        new_folder(arguments.out) as partial,
        tqdm(total=before, unit="B", unit_scale=True, disable=None, leave=False) as bar,
    ):
        quantize_checkpoint(folder, partial, arguments.weights, progress=bar.update)
        tokenizer.save(partial)
    after = _weights_bytes(arguments.out)
    print(
        f"{folder}, {before / 1e6:,.1f} MB, as {arguments.weights} in {arguments.out}, "
        f"{after / 1e6:,.1f} MB"
    )


def _doctor(_: DoctorArguments) -> None:
    import importlib.util
    import platform

    import torch

    import exlstm
    from exlstm.ops import explain, native

    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    cuda = "yes" if torch.cuda.is_available() else "no"
    print(f"exlstm {exlstm.__version__}, {versions}")
    print(f"{torch.get_num_threads()} CPU threads, CUDA: {cuda}")
    kernels = native.library()
    print(f"compiled kernels: {native.reason() if kernels is None else kernels._name}")
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        step = torch.zeros(1, 1, 1, 4, device=device)
        tensors = {
            "mlstm": (step, step, step, step[..., 0], step[..., 0]),
            "slstm": (step[..., None, :].expand(1, 1, 1, 4, 4), step[0].expand(1, 4, 4, 4)),
        }
        for op, inputs in tensors.items():
            print(f"{op} on {device}:")
            for backend, reason in explain(op, *inputs).items():
                print(f"  {backend:<12} {reason}")
    extras = {
        "lm": ("transformers", "accelerate", "tokenizers", "matplotlib"),
        "export": ("onnx", "onnxscript", "onnxruntime"),
        "ts": ("sklearn", "pandas"),
        "tune": ("optuna",),
    }
    for extra, packages in extras.items():
        for package in packages:
            if importlib.util.find_spec(package) is None:
                print(f"{package} is missing: pip install 'exlstm[{extra}]'")


VERBS: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "prepare": (PrepareArguments, run_prepare),
    "train": (TrainArguments, _train),
    "generate": (GenerateArguments, _generate),
    "evaluate": (EvaluateArguments, _evaluate),
    "export": (ExportArguments, _export),
    "convert": (ConvertArguments, _convert),
    "quantize": (QuantizeArguments, _quantize),
    "forecast": (ForecastArguments, forecast_command),
    "anomalies": (AnomaliesArguments, anomalies_command),
    "tune": (TuneArguments, tune_command),
    "tasks": (TasksArguments, tasks),
    "plan": (PlanArguments, print_plan),
    "scaling": (ScalingArguments, scaling),
    "claims": (ClaimsArguments, claims),
    "evidence": (EvidenceArguments, evidence),
    "doctor": (DoctorArguments, _doctor),
}
"""Name -> what it is told, and what it does. What a verb needs it imports when it runs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for a mistake of the user, 1 else."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        arguments = _parse(argv)
        VERBS[argv[0]][1](arguments)
    except SystemExit as exit:  # tyro's: --help, or a wrong flag
        return int(exit.code or 0)
    except (FloatingPointError, ChildProcessError) as error:
        print(f"exlstm: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"exlstm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _parse(argv: list[str]) -> Any:
    kinds = {name: kind for name, (kind, _) in VERBS.items()}
    config = (tyro.conf.FlagCreatePairsOff,)
    description = "xLSTM sequence models: train, use what was trained, compare."
    arguments = tyro.extras.subcommand_cli_from_dict(
        kinds, prog="exlstm", description=description, args=argv, config=config
    )
    if isinstance(arguments, TrainArguments) and arguments.resume:
        # A resumed run needs no flag twice: what is not given is as the run began.
        began = replace(resumed_arguments(arguments.out), resume=False)
        return tyro.cli(
            TrainArguments, prog="exlstm train", args=argv[1:], default=began, config=config
        )
    return arguments


def _weights_bytes(folder: Path) -> int:
    from exlstm.models.tensor_files import find_tensors

    return sum(tensor.nbytes for tensor in find_tensors(folder).values())


def _set_threads(threads: int | None) -> None:
    import torch

    if threads is None:
        return
    if threads < 1:
        raise ValueError(f"threads: {threads} is not possible, it must be at least 1")
    torch.set_num_threads(threads)


if __name__ == "__main__":
    sys.exit(main())
