"""`exlstm scaling`: train a grid of sizes and tokens, and fit laws to what it gives.

Every run is an ordinary `exlstm train` in a process and a folder of its own, so a grid that was
killed goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from exlstm.data.atomic import write_text
from exlstm.evaluate.scaling import (
    HUBER_DELTA,
    IsoFlopFit,
    LossFit,
    Run,
    budgets_of,
    fit_isoflop,
    fit_loss_law,
    read_runs,
)
from exlstm.evaluate.scaling_law import ISOFLOP_LAWS, SCALING_LAWS
from exlstm.models import XLSTMConfig
from exlstm.models.accounting import count_parameters, training_flops
from exlstm.train.arguments import TrainArguments
from exlstm.train.child import check_end, final_loss, start

RUNS_FILE = "runs.jsonl"


@dataclass(frozen=True, kw_only=True)
class ScalingRunArguments:
    """Train every size on every number of tokens, at every learning rate; the best rate counts.

    Started again, it does what is missing.
    """

    out: Path
    """Folder of the grid; runs.jsonl in it is what `scaling fit` reads."""
    data: str | None = None
    """As for train."""
    pattern: str = "mmsm"
    """As for train; the same for all sizes."""
    num_heads: int = 4
    """As for train."""
    sizes: tuple[int, ...] = (20_000, 60_000, 150_000, 400_000, 1_000_000)
    """Parameters; each becomes the model nearest to it."""
    tokens: tuple[int, ...] = (250_000, 500_000, 1_000_000, 2_000_000)
    """Training tokens; rounded to whole steps."""
    learning_rates: tuple[float, ...] = (3e-3,)
    """Peak learning rates to try."""
    context: int = 256
    """As for train."""
    batch_size: int = 16
    """As for train."""
    eval_windows: int = 256
    """As for train."""
    seed: int = 0
    """As for train."""
    jobs: int = 2
    """Runs at once, of one thread each."""


@dataclass(frozen=True, kw_only=True)
class ScalingFitArguments:
    """Fit L(N, D), and the IsoFLOP optima where there are budgets, and draw them."""

    file: Annotated[Path, tyro.conf.Positional]
    """A CSV or JSONL file with N, D and loss, and where known flops and model; or a grid's
    folder."""
    out: Path | None = None
    """Folder for fit.json and the pictures; without it, beside the file."""
    gamma: float | None = None
    """Keep the law's outer exponent at this, such as 1 for Chinchilla's law; else it is fitted."""
    delta: float = HUBER_DELTA
    """Residuals of log L beyond this count linearly."""
    bootstrap: int = 100
    """Fits to runs drawn with replacement, for the bands."""
    seed: int = 0
    """Of the drawing."""


@dataclass(frozen=True, kw_only=True)
class ScalingArguments:
    """Make a scaling law: train a grid of models, fit laws to runs."""

    job: Annotated[
        Annotated[ScalingRunArguments, tyro.conf.subcommand("run")]
        | Annotated[ScalingFitArguments, tyro.conf.subcommand("fit")],
        tyro.conf.arg(name=""),
    ]


def scaling(arguments: ScalingArguments) -> None:
    """Do one of the two jobs."""
    if isinstance(arguments.job, ScalingRunArguments):
        run_grid(arguments.job)
    else:
        fit_file(arguments.job)


def model_of_size(parameters: int, pattern: str, num_heads: int, vocab_size: int) -> XLSTMConfig:
    """The model nearest to a number of parameters, of widths that divide by 4 per head.

    Raises:
        ValueError: The smallest is more than twice as large.

    Example:
        >>> model_of_size(100_000, "ms", 4, 257).d_model
        64
    """

    def of_width(width: int) -> tuple[XLSTMConfig, int]:
        config = XLSTMConfig(
            vocab_size=vocab_size, d_model=width, pattern=pattern, num_heads=num_heads
        )
        return config, sum(count_parameters(config).values())

    step = 4 * num_heads
    width = step
    best, size = of_width(width)
    if size > 2 * parameters:
        raise ValueError(f"sizes: {parameters:,} is below the smallest {pattern}, {size:,}")
    while size < parameters:
        width += step
        config, larger = of_width(width)
        if larger - parameters > parameters - size:
            break
        best, size = config, larger
    return best


def grid(arguments: ScalingRunArguments) -> Iterator[tuple[TrainArguments, Run]]:
    """The runs of a grid, cheapest first; their losses are not known yet.

    Raises:
        ValueError: A value is not possible.
    """
    for name in ("sizes", "tokens", "learning_rates"):
        if not getattr(arguments, name) or min(getattr(arguments, name)) <= 0:
            raise ValueError(
                f"{name}: {getattr(arguments, name)} is not possible, give positive ones"
            )
    if arguments.jobs < 1:
        raise ValueError(f"jobs: {arguments.jobs} is not possible, it must be at least 1")
    planned = []
    for size in arguments.sizes:
        config = model_of_size(size, arguments.pattern, arguments.num_heads, vocab_size=257)
        for tokens in arguments.tokens:
            per_step = arguments.context * arguments.batch_size
            steps = max(1, round(tokens / per_step))
            for rate in arguments.learning_rates:
                number = config.num_params()
                name = f"{arguments.pattern}-{number}-{steps * per_step}-{rate:g}-{arguments.seed}"
                train = TrainArguments(
                    out=arguments.out / "runs" / name,
                    data=arguments.data,
                    pattern=arguments.pattern,
                    d_model=config.d_model,
                    num_heads=arguments.num_heads,
                    context=arguments.context,
                    batch_size=arguments.batch_size,
                    steps=steps,
                    learning_rate=rate,
                    seed=arguments.seed,
                    eval_every=steps,
                    eval_windows=arguments.eval_windows,
                    save_every=min(500, steps),
                    keep=1,
                    threads=1,
                )
                train.check()
                done = steps * per_step
                flops = done * training_flops(config)
                planned.append((train, Run(number, done, float("nan"), flops, arguments.pattern)))
    yield from sorted(planned, key=lambda one: one[1].flops or 0.0)


def run_grid(arguments: ScalingRunArguments) -> list[Run]:
    """Train what is missing of a grid, and write what there is.

    Raises:
        ValueError: A value is not possible, or a run stopped with a mistake.
        FloatingPointError: A run broke off.
    """
    planned = list(grid(arguments))
    arguments.out.mkdir(parents=True, exist_ok=True)
    total, done = sum(run.flops or 0.0 for _, run in planned), 0.0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        try:
            for number, (train, run) in enumerate(
                pool.map(lambda one: _finished(*one), planned), start=1
            ):
                done += run.flops or 0.0
                print(
                    f"{number}/{len(planned)}, {done / total:4.0%} of the FLOPs: "
                    f"{run.parameters:,} parameters, {run.tokens:,} tokens, "
                    f"learning rate {train.learning_rate:g}: loss {run.loss:.4f}",
                    flush=True,
                )
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    best = _write_runs(arguments.out, planned)
    print(
        f"{arguments.out / RUNS_FILE}: {len(best)} runs; next: exlstm scaling fit {arguments.out}"
    )
    return best


def _finished(train: TrainArguments, run: Run) -> tuple[TrainArguments, Run]:
    """A run with its loss, trained if it is not yet."""
    loss = final_loss(train)
    if loss is None:
        child = start(train)
        _, errors = child.communicate()
        loss = check_end(train, child.returncode, errors)
    return train, run._replace(loss=loss)


def _write_runs(folder: Path, planned: list[tuple[TrainArguments, Run]]) -> list[Run]:
    """Of each size and number of tokens, the best learning rate."""
    best: dict[tuple[float, float], dict[str, Any]] = {}
    for train, run in planned:
        loss = final_loss(train)
        key = (run.parameters, run.tokens)
        if loss is not None and (key not in best or loss < best[key]["loss"]):
            best[key] = {
                "N": run.parameters,
                "D": run.tokens,
                "loss": loss,
                "flops": run.flops,
                "model": run.model,
                "learning_rate": train.learning_rate,
                "width": train.d_model,
            }
    lines = "".join(json.dumps(row) + "\n" for row in best.values())
    write_text(folder / RUNS_FILE, lines)
    return [Run(r["N"], r["D"], r["loss"], r["flops"], r["model"]) for r in best.values()]


def fit_file(arguments: ScalingFitArguments) -> dict[str, Any]:
    """Fit each model of a file, print the laws, write them and their pictures.

    Raises:
        ValueError: The file is not as it must be, or has too few runs.
    """
    from exlstm.evaluate.scaling_plot import plot_isoflop, plot_loss_law

    file = arguments.file / RUNS_FILE if arguments.file.is_dir() else arguments.file
    runs = read_runs(file)
    out = file.parent if arguments.out is None else arguments.out
    out.mkdir(parents=True, exist_ok=True)
    options = {"bootstrap": arguments.bootstrap, "seed": arguments.seed}
    results: dict[str, Any] = {}
    for model in sorted({run.model for run in runs}):
        own = [run for run in runs if run.model == model]
        name = model or "runs"
        fit = fit_loss_law(own, gamma=arguments.gamma, delta=arguments.delta, **options)
        print(f"{name}: {len(own)} runs\n{_describe_loss(fit)}")
        plot_loss_law(fit, own, f"{name}: L(N, D)").savefig(out / f"{name}-loss.png")
        results[name] = {
            "runs": len(own),
            "law": asdict(fit.law),
            "interval_90": {
                part: fit.interval(lambda law, part=part: getattr(law, part))
                for part in asdict(fit.law)
            },
            "r_squared": fit.r_squared,
            "largest_error": fit.largest_error,
        }
        if len(budgets_of(own)) >= 2:
            isoflop = fit_isoflop(own, **options)
            print(_describe_isoflop(isoflop))
            plot_isoflop(isoflop, f"{name}: IsoFLOP").savefig(out / f"{name}-isoflop.png")
            results[name]["isoflop"] = {
                "optima": [optimum._asdict() for optimum in isoflop.optima],
                "parameters": asdict(isoflop.law.parameters),
                "tokens": asdict(isoflop.law.tokens),
            }
    write_text(out / "fit.json", json.dumps(results, indent=2) + "\n")
    print(out / "fit.json")
    return results


def _describe_loss(fit: LossFit) -> str:
    """The constants beside their intervals and the published ones."""
    lines = [f"  {'':<8}{'fit':>9}  {'90 % interval':>19}  {'xlstm':>9}{'transformer':>12}"]
    for part, value in asdict(fit.law).items():
        low, high = fit.interval(lambda law, part=part: getattr(law, part))
        published = (getattr(SCALING_LAWS[key], part) for key in ("xlstm", "transformer"))
        xlstm, transformer = published
        lines.append(
            f"  {part:<8}{value:9.4f}  [{low:8.4f}, {high:8.4f}]{xlstm:9.4f}{transformer:12.4f}"
        )
    lines.append(f"  R^2 {fit.r_squared:.5f}, largest error {fit.largest_error:.2%}")
    return "\n".join(lines)


def _describe_isoflop(fit: IsoFlopFit) -> str:
    lines = []
    for part in ("parameters", "tokens"):
        law, published = getattr(fit.law, part), ISOFLOP_LAWS["xlstm"]
        low, high = fit.interval(lambda one, part=part: getattr(one, part).exponent)
        deviation = "" if law.deviation is None else f" +- {law.deviation:.4f}"
        lines.append(
            f"  IsoFLOP {part}: exponent {law.exponent:.4f}{deviation} [{low:.4f}, {high:.4f}], "
            f"published {getattr(published, part).exponent:.4f}"
        )
    return "\n".join(lines)
