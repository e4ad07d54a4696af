# SPDX-License-Identifier: Apache-2.0
"""The commands of ``vitdet``: one row each, with what it imports inside its function.

Imported on demand: `vitdet env` must work where a part of the rest does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Command:
    """A word behind ``vitdet``.

    Attributes:
        summary: what it does, for the list of commands.
        run: called with the arguments behind the word, and the program's name for messages.
    """

    summary: str
    run: Callable[[Sequence[str], str], None]


def train(argv: Sequence[str], prog: str) -> None:
    """Train the model of a recipe, as ``train_net.py`` does."""
    from vitdet_d2.engine.arguments import parse_train
    from vitdet_d2.engine.run import run

    run(parse_train(argv, prog))


def _eval(argv: Sequence[str], prog: str) -> None:
    from vitdet_d2.engine.arguments import parse_eval
    from vitdet_d2.engine.run import run

    run(parse_eval(argv, prog))


def _predict(argv: Sequence[str], prog: str) -> None:
    from vitdet_d2.engine.predict import run_predict
    from vitdet_d2.engine.predict_arguments import parse_predict

    run_predict(parse_predict(argv, prog))


def _env(argv: Sequence[str], prog: str) -> None:
    from vitdet_d2.environment import main

    main(argv, prog)


def _zoo(argv: Sequence[str], prog: str) -> None:
    from vitdet_d2.engine.zoo_command import main

    main(argv, prog)


def _convert(argv: Sequence[str], prog: str) -> None:
    from vitdet_d2.engine.convert_command import main

    main(argv, prog)


def _errors(argv: Sequence[str], prog: str) -> None:
    from vitdet_d2.engine.errors_command import main

    main(argv, prog)


def _compare(argv: Sequence[str], prog: str) -> None:
    from vitdet_d2.engine.compare_command import main

    main(argv, prog)


def _complexity(argv: Sequence[str], prog: str) -> None:
    from vitdet_d2.engine.complexity_command import main

    main(argv, prog)


def _bench(argv: Sequence[str], prog: str) -> None:
    from vitdet_d2.engine.bench_command import main

    main(argv, prog)


def _tune(argv: Sequence[str], prog: str) -> None:
    # Before the rest is imported, so that help and wrong usage are told at once.
    from vitdet_d2.engine.tune_arguments import parse_tune

    arguments = parse_tune(argv, prog)
    from vitdet_d2.engine.tune_command import run_tune

    run_tune(arguments)


COMMANDS: dict[str, Command] = {
    "train": Command(summary="train the model of a recipe, and evaluate it", run=train),
    "eval": Command(summary="evaluate weights on the test data of a recipe", run=_eval),
    "predict": Command(summary="detect objects on pictures of your own", run=_predict),
    "convert": Command(summary="convert weights of any known source", run=_convert),
    "errors": Command(summary="tell the errors of detections, and what each costs", run=_errors),
    "compare": Command(summary="compare the AP of runs over their schedules", run=_compare),
    "zoo": Command(summary="list, show and download released checkpoints", run=_zoo),
    "complexity": Command(
        summary="count and measure what recipes cost: FLOPs, memory, time", run=_complexity
    ),
    "bench": Command(
        summary="measure speed and memory, beside Detectron2 where there is one", run=_bench
    ),
    "tune": Command(summary="choose learning rate, weight decay and drop path", run=_tune),
    "env": Command(summary="show versions, devices, and which Detectron2 is in use", run=_env),
}


def usage() -> str:
    """Return the text of ``vitdet --help``."""
    width = max(len(name) for name in COMMANDS) + 2
    rows = "\n".join(f"  {name:<{width}}{command.summary}" for name, command in COMMANDS.items())
    return (
        f"usage: vitdet COMMAND ...\n\ncommands:\n{rows}\n\n"
        "`vitdet COMMAND --help` tells the rest; `vitdet --version` the version.\n"
    )
