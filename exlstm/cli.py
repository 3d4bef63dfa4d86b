"""The command `exlstm`: one verb per job, each a typed dataclass of arguments."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

try:
    import tyro
except ModuleNotFoundError:
    raise SystemExit("exlstm: the command line needs more: pip install 'exlstm[lm]'") from None

from exlstm.train import TrainArguments
from exlstm.train.run_folder import resumed_arguments


def _train(arguments: TrainArguments) -> None:
    from exlstm.train import train

    train(arguments)


VERBS: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "train": (TrainArguments, _train),
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
    except (ValueError, OSError) as error:
        print(f"exlstm: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"exlstm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parse(argv: list[str]) -> Any:
    kinds = {name: kind for name, (kind, _) in VERBS.items()}
    config = (tyro.conf.FlagCreatePairsOff,)
    description = "xLSTM sequence models: train, and use what was trained."
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
