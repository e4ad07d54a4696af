# SPDX-License-Identifier: Apache-2.0
"""The command line of training and evaluation.

Source: the arguments of detectron2 ``engine/defaults.py``, plus what docs/compatibility.md lists.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

from vitdet_d2.errors import RecipeError

Resume = Literal["never", "required", "auto"]


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """What a run was asked to do.

    Attributes:
        config_file: path of a recipe, or its name.
        num_gpus: GPUs of this machine; None: one if CUDA is there, else CPU; 0: CPU.
        num_machines: machines of the run.
        machine_rank: number of this machine.
        dist_url: where the machines meet, ``tcp://HOST:PORT``; None: not needed.
        resume: continue a run: never, only if there is one, or if there is one else start.
        overwrite: replace the run in the output folder.
        auto_increment: take the next free number where the output folder holds a run.
        eval_only: evaluate, without training.
        weights: what is evaluated; None: the recipe's ``train.init_checkpoint``.
        allow_partial: accept first weights that lack parts of the backbone.
        overrides: ``key=value``, ``+key=value`` and ``~key``, in order.
        debug: show tracebacks of errors.
    """

    config_file: str
    num_gpus: int | None = None
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str | None = None
    resume: Resume = "never"
    overwrite: bool = False
    auto_increment: bool = False
    eval_only: bool = False
    weights: str | None = None
    allow_partial: bool = False
    overrides: tuple[str, ...] = ()
    debug: bool = False


class OneLineParser(argparse.ArgumentParser):
    """Raises in place of printing its usage, so that every error has the same form."""

    def error(self, message: str) -> NoReturn:
        """Raise with the message.

        Args:
            message: of argparse.

        Raises:
            RecipeError: always.
        """
        raise RecipeError(f"{message}; see `{self.prog} --help`")


def parser_with_examples(prog: str, description: str, epilog: str) -> OneLineParser:
    """Return a parser whose help keeps the lines of its texts as they are.

    Args:
        prog: shown in messages.
        description: stands before the options.
        epilog: stands behind them, for example examples.
    """
    return OneLineParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


_OVERRIDES_HELP = (
    "changes of the recipe: key=value for a key that exists, +key=value for a new one, ~key to "
    "delete one; values are YAML, list items go by number (augmentations.0.prob=0.5)"
)


def _common_parser(prog: str, description: str) -> OneLineParser:
    parser = OneLineParser(prog=prog, description=description, allow_abbrev=False)
    add = parser.add_argument
    add("--config-file", required=True, metavar="PATH|NAME", help="the recipe")
    add("--num-gpus", type=_count, metavar="N", help="unset: one GPU if there is one; 0: CPU")
    add("--num-machines", type=_count, default=1, metavar="N", help="machines of the run")
    add("--machine-rank", type=_count, default=0, metavar="R", help="number of this machine")
    add("--dist-url", metavar="tcp://HOST:PORT", help="where several machines meet")
    add("--debug", action="store_true", help="show tracebacks")
    add("overrides", nargs="*", metavar="key=value", help=_OVERRIDES_HELP)
    return parser


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got {text!r}")
    return value


def parse_train(argv: Sequence[str], prog: str = "vitdet train") -> RunArguments:
    """Read the arguments of ``train_net.py`` and ``vitdet train``.

    Args:
        argv: without the program's name.
        prog: shown in messages.

    Raises:
        RecipeError: an argument is unknown, missing or contradicts another.
    """
    parser = _common_parser(prog, "Train the model of a recipe, and evaluate it.")
    add = parser.add_argument
    add(
        "--resume",
        choices=["never", "required", "auto"],
        default="never",
        metavar="auto",
        help="continue the run in the output folder; --resume=auto starts one if there is none",
    )
    add("--overwrite", action="store_true", help="replace the run in the output folder")
    add("--auto-increment", action="store_true", help="number the output folder if it is taken")
    add("--eval-only", action="store_true", help="evaluate train.init_checkpoint, do not train")
    add(
        "--allow-partial",
        action="store_true",
        help="train from weights that lack parts of the backbone "
        "(train.init_options.allow_partial=true)",
    )
    parsed = parser.parse_intermixed_args(_spell_out_resume(argv))
    arguments = RunArguments(**{**vars(parsed), "overrides": tuple(parsed.overrides)})
    _check_train(arguments)
    return arguments


def _spell_out_resume(argv: Sequence[str]) -> list[str]:
    """Give a bare ``--resume`` its value, so that it does not swallow the override behind it."""
    spelled: list[str] = []
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        if argument == "--resume":
            argument = "--resume=required"
            if rest and rest[0] == "auto":
                argument = f"--resume={rest.pop(0)}"
        spelled.append(argument)
    return spelled


def _check_train(arguments: RunArguments) -> None:
    if arguments.allow_partial and arguments.eval_only:
        raise RecipeError("--allow-partial is for training; evaluation needs all weights")
    continues = arguments.resume != "never"
    if continues and (arguments.overwrite or arguments.auto_increment):
        other = "--overwrite" if arguments.overwrite else "--auto-increment"
        raise RecipeError(f"--resume continues a run and {other} starts one; give one of them")
    if arguments.overwrite and arguments.auto_increment:
        raise RecipeError("--overwrite and --auto-increment exclude each other; give one of them")
    if continues and arguments.eval_only:
        raise RecipeError(
            "--eval-only evaluates train.init_checkpoint and does not --resume; name the file "
            "with train.init_checkpoint=PATH"
        )


def parse_eval(argv: Sequence[str], prog: str = "vitdet eval") -> RunArguments:
    """Read the arguments of ``vitdet eval``.

    Args:
        argv: without the program's name.
        prog: shown in messages.

    Raises:
        RecipeError: an argument is unknown or missing.
    """
    parser = _common_parser(prog, "Evaluate weights on the test data of a recipe.")
    parser.add_argument("--weights", help="checkpoint; unset: the recipe's train.init_checkpoint")
    parsed = parser.parse_intermixed_args(list(argv))
    values = {**vars(parsed), "overrides": tuple(parsed.overrides), "eval_only": True}
    return RunArguments(**values)
