# SPDX-License-Identifier: Apache-2.0
"""The command line of ``vitdet tune``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vitdet_d2.engine.arguments import OneLineParser, parser_with_examples
from vitdet_d2.errors import RecipeError

_EPILOG = """\
the protocol:
  stage 1   without drop path, a grid of learning rate x weight decay: 1.6e-4 and 0.1, each halved
            and doubled; where the best pair lies on the border, the grid grows beyond it
  stage 2   the drop path rate, of 0, 0.1, 0.2 and 0.3, at the best pair
  stage 3   --from STUDY: the pair of another study, that of the base model; drop path only

examples:
  vitdet tune benchmark_vit_b_mae --output runs/tune_b
  vitdet tune benchmark_vit_l_mae --output runs/tune_l --from runs/tune_b
  vitdet tune quickstart --output runs/tune_digits --stage 1 --iterations 200 \\
      --lr 5e-4,1e-3 --weight-decay 0.05,0.1 train.seed=0

A study goes on where it ended, however it ended, with the same command. Several machines work on
one study with --storage URL. The folder of the study has study.db, cells/ with a run folder per
cell, logs/, report.json and heat_map.png. docs/tune.md tells the rest.

exit codes: 0 done; 1 all cells failed, or the storage cannot be used; 2 wrong usage or recipe, or
a study of something else; 130 / 143 interrupted by Ctrl-C / SIGTERM, cells saved
"""

_LISTS = (
    ("--lr", "learning rates of the grid"),
    ("--weight-decay", "weight decays of the grid"),
    ("--drop-path", "drop path rates of stages 2 and 3 (default 0,0.1,0.2,0.3)"),
)


@dataclass(frozen=True, kw_only=True)
class TuneArguments:
    """What was asked for.

    Attributes:
        recipe: path or name.
        overrides: of all cells, as typed.
        output: folder of the study; None: ``runs/tune_RECIPE``.
        storage: address of a database; None: SQLite in the folder.
        study_name: in the storage; None: the recipe's name.
        stage: which to run; "3" where `pair_from` is given.
        pair_from: folder or storage of the study whose pair is taken.
        pair_from_name: name of that study, where its storage has several.
        lr: learning rates; None: around the centre.
        lr_centre: in the middle of the grid; None: the protocol's.
        weight_decay: weight decays; None: around the centre.
        weight_decay_centre: in the middle of the grid; None: the protocol's.
        drop_path: rates; None: the protocol's.
        drop_path_key: of the recipe; None: found.
        max_extensions: how often the grid may grow; None: the protocol's bound.
        epochs: length of a cell; None: by `iterations`, or the protocol's.
        iterations: length of a cell.
        metric: name in ``metrics.json``.
        objective: which evaluation counts.
        parallel: cells at once; None: as many as there are GPUs for, one on the CPU.
        num_gpus: GPUs of a cell; None: one if there is one; 0: CPU.
        grace: seconds for which a worker of another machine may be silent.
        retry_failed: run failed cells again.
        report: only say how the study stands.
        dry_run: only say what would be run.
        json: print the report as JSON.
        debug: show tracebacks of errors.
    """

    recipe: str
    overrides: tuple[str, ...] = ()
    output: Path | None = None
    storage: str | None = None
    study_name: str | None = None
    stage: Literal["all", "1", "2", "3"] = "all"
    pair_from: str | None = None
    pair_from_name: str | None = None
    lr: tuple[float, ...] | None = None
    lr_centre: float | None = None
    weight_decay: tuple[float, ...] | None = None
    weight_decay_centre: float | None = None
    drop_path: tuple[float, ...] | None = None
    drop_path_key: str | None = None
    max_extensions: int | None = None
    epochs: float | None = None
    iterations: int | None = None
    metric: str = "bbox/AP"
    objective: Literal["final", "best"] = "final"
    parallel: int | None = None
    num_gpus: int | None = None
    grace: float = 300.0
    retry_failed: bool = False
    report: bool = False
    dry_run: bool = False
    json: bool = False
    debug: bool = False


def parse_tune(argv: Sequence[str], prog: str = "vitdet tune") -> TuneArguments:
    """Read the arguments of ``vitdet tune``.

    Args:
        argv: without the program's name.
        prog: shown in messages.

    Raises:
        RecipeError: an argument is unknown, missing, out of range or contradicts another.
    """
    values = vars(_parser(prog).parse_intermixed_args(list(argv)))
    recipe, *overrides = values.pop("recipe_and_overrides")
    if values["pair_from"] is not None and values["stage"] == "all":
        values["stage"] = "3"
    arguments = TuneArguments(recipe=recipe, overrides=tuple(overrides), **values)
    _check(arguments)
    return arguments


def _parser(prog: str) -> OneLineParser:
    parser = parser_with_examples(
        prog, "Choose learning rate, weight decay and drop path of a recipe by trying.", _EPILOG
    )
    parser.add_argument(
        "recipe_and_overrides",
        nargs="+",
        metavar="RECIPE [key=value ...]",
        help="the recipe, by path or name, and changes of it for all cells, as for vitdet train",
    )
    _add_study(parser.add_argument_group("the study"))
    _add_protocol(parser.add_argument_group("the protocol"))
    _add_cells(parser.add_argument_group("the cells"))
    add = parser.add_argument
    add("--report", action="store_true", help="only show how the study stands; run nothing")
    add("--dry-run", action="store_true", help="only show the first cells and their commands")
    add("--json", action="store_true", help="print the report as JSON; messages go to stderr")
    add("--debug", action="store_true", help="show tracebacks")
    return parser


def _add_study(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--output", type=Path, metavar="DIR", help="its folder (default runs/tune_RECIPE)")
    add("--storage", metavar="URL", help="a database for many machines (default DIR/study.db)")
    add("--study-name", metavar="NAME", help="in the storage (default: the recipe's name)")
    add("--retry-failed", action="store_true", help="run failed cells again")
    add(
        "--grace",
        type=_number(lambda v: v > 0, "a number of seconds above 0"),
        default=300.0,
        metavar="SECONDS",
        help="silence after which a worker of another machine is taken for dead (default 300)",
    )


def _add_protocol(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--stage", choices=["all", "1", "2", "3"], default="all", help="which stage to run")
    add("--from", dest="pair_from", metavar="STUDY", help="stage 3: folder or storage of a study")
    add("--from-name", dest="pair_from_name", metavar="NAME", help="which study of that storage")
    for option, text in _LISTS:
        add(option, type=_numbers, metavar="A,B,...", help=text)
    positive = _number(lambda v: v > 0, "a number above 0")
    add("--lr-centre", type=positive, metavar="X", help="middle of the grid (default 1.6e-4)")
    add("--weight-decay-centre", type=positive, metavar="X", help="the same (default 0.1)")
    add(
        "--max-extensions",
        type=_whole(0),
        metavar="N",
        help="how often the grid may grow (default 3); an axis of one or two values never does",
    )
    add("--metric", default="bbox/AP", metavar="NAME", help="what counts (default %(default)s)")
    add(
        "--objective",
        choices=["final", "best"],
        default="final",
        help="the metric of the final weights (default), or the best of all evaluations",
    )


def _add_cells(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    positive = _number(lambda v: v > 0, "a number above 0")
    add(
        "--epochs",
        type=positive,
        metavar="N",
        help="length of a cell (default for recipes in epochs: 25, from random weights 100)",
    )
    add("--iterations", type=_whole(1), metavar="N", help="length of a cell, in iterations")
    add("--parallel", type=_whole(1), metavar="N", help="cells at once (default: one per GPU)")
    add("--num-gpus", type=_whole(0), metavar="N", help="GPUs of each cell (default 1; 0: CPU)")
    add("--drop-path-key", metavar="KEY", help="of the recipe, where it cannot be found by name")


def _number(accepts: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and accepts(value)):
            raise argparse.ArgumentTypeError(f"must be {expected}, got {text!r}")
        return value

    return read


def _whole(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text) if text.isdecimal() else -1
        if value < least:
            raise argparse.ArgumentTypeError(
                f"must be a whole number of at least {least}, got {text!r}"
            )
        return value

    return read


def _numbers(text: str) -> tuple[float, ...]:
    """Return the numbers of a list, ascending.

    Raises:
        argparse.ArgumentTypeError: one is no number, or stands there twice.
    """
    read = _number(lambda v: v >= 0, "numbers of at least 0, separated by commas")
    values = sorted(read(part) for part in text.split(","))
    doubles = {value for value in values if values.count(value) > 1}
    if doubles:
        raise argparse.ArgumentTypeError(f"has {min(doubles):g} twice in {text!r}")
    return tuple(values)


def _check(arguments: TuneArguments) -> None:
    """Refuse what is out of range or contradicts itself.

    Raises:
        RecipeError: something does.
    """
    if "=" in arguments.recipe:
        raise RecipeError(
            f"which recipe? {arguments.recipe!r} is a change of one; name it first: "
            "vitdet tune RECIPE key=value"
        )
    if arguments.lr is not None and arguments.lr[0] <= 0:
        raise RecipeError("--lr: learning rates must be above 0, got 0")
    if arguments.drop_path is not None and arguments.drop_path[-1] >= 1:
        raise RecipeError(f"--drop-path: rates must be below 1, got {arguments.drop_path[-1]:g}")
    exclusive: list[tuple[str, Any, str, Any]] = [
        ("--lr", arguments.lr, "--lr-centre", arguments.lr_centre),
        ("--weight-decay", arguments.weight_decay,
         "--weight-decay-centre", arguments.weight_decay_centre),
        ("--epochs", arguments.epochs, "--iterations", arguments.iterations),
        ("--report", arguments.report or None, "--dry-run", arguments.dry_run or None),
        ("--report", arguments.report or None, "--retry-failed", arguments.retry_failed or None),
    ]  # fmt: skip
    for one, first, other, second in exclusive:
        if first is not None and second is not None:
            raise RecipeError(f"{one} and {other} exclude each other; give one of them")
    _check_stage(arguments)


def _check_stage(arguments: TuneArguments) -> None:
    if (arguments.stage == "3") != (arguments.pair_from is not None):
        raise RecipeError(
            "stage 3 takes the pair of another study: give --from STUDY, the folder or the storage "
            f"of one, with --stage 3 or without --stage, not --stage {arguments.stage}"
            + ("" if arguments.pair_from is None else f" --from {arguments.pair_from}")
        )
    grid = (
        ("--lr", arguments.lr), ("--lr-centre", arguments.lr_centre),
        ("--weight-decay", arguments.weight_decay),
        ("--weight-decay-centre", arguments.weight_decay_centre),
        ("--max-extensions", arguments.max_extensions),
    )  # fmt: skip
    for option, value in grid if arguments.pair_from is not None else ():
        if value is not None:
            raise RecipeError(f"{option} is of stage 1; stage 3 (--from) takes the pair as it is")
    if arguments.pair_from is None and arguments.pair_from_name is not None:
        raise RecipeError("--from-name names a study of --from STUDY, which is not given")
