# SPDX-License-Identifier: Apache-2.0
"""Runs side by side: what each measured over its schedule, last, and at its best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitdet_d2.analysis.published import PublishedRow, published_rows
from vitdet_d2.analysis.run_facts import RunFacts, read_facts
from vitdet_d2.analysis.run_metrics import Evaluation, RunMetrics, metrics_file, read_metrics
from vitdet_d2.errors import DataError, RecipeError

DEFAULT_METRICS = ("bbox/AP", "segm/AP")
_TASK_TITLES = {"bbox": "box", "segm": "mask"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run with its history.

    Attributes:
        name: in tables and plots.
        file: its ``metrics.json``.
        facts: what it is.
        metrics: what it has measured.
    """

    name: str
    file: Path
    facts: RunFacts
    metrics: RunMetrics

    def points(self, metric: str) -> list[tuple[Evaluation, float]]:
        """Return the evaluations that have a metric, with its value.

        Args:
            metric: its name.
        """
        return [(e, e.values[metric]) for e in self.metrics.evaluations if metric in e.values]

    def final(self, metric: str) -> float | None:
        """Return the value of the last evaluation; None where it has none.

        Args:
            metric: its name.
        """
        evaluations = self.metrics.evaluations
        return evaluations[-1].values.get(metric) if evaluations else None

    def best(self, metric: str) -> tuple[Evaluation, float] | None:
        """Return the evaluation with the highest value, the first of equal ones.

        Args:
            metric: its name.
        """
        return max(self.points(metric), key=lambda point: point[1], default=None)

    @property
    def is_complete(self) -> bool | None:
        """Whether the schedule has ended; None where its length is not known."""
        if self.facts.max_iter is None:
            return None
        return self.metrics.iterations >= self.facts.max_iter

    def notes(self) -> Iterator[str]:
        """Yield what a reader of its numbers should know."""
        metrics, max_iter = self.metrics, self.facts.max_iter
        yield from metrics.notes
        if metrics.num_resumed:
            times = "once" if metrics.num_resumed == 1 else f"{metrics.num_resumed} times"
            yield f"resumed {times}; what was measured last counts"
        done = f"after {metrics.iterations} iterations"
        if self.is_complete is False:
            done = f"after {metrics.iterations} of {max_iter} iterations"
        if not metrics.evaluations:
            yield f"no evaluation {done}; see train.eval_period"
        elif self.is_complete is False:
            yield f"not at its end: {done}, the last evaluation stands for the final one"
        elif metrics.evaluations[-1].iterations < metrics.iterations:
            last = metrics.evaluations[-1].iterations
            yield f"its last evaluation was after {last} iterations, its end {done}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs, and by what they are compared.

    Attributes:
        runs: in the order of the user.
        metrics: names.
        published: what others have measured.
    """

    runs: tuple[Run, ...]
    metrics: tuple[str, ...]
    published: tuple[PublishedRow, ...] = ()

    @property
    def by_epochs(self) -> bool:
        """Whether the epochs of all runs are known."""
        return all(run.facts.epochs(1) is not None for run in self.runs)

    def notes(self) -> list[str]:
        """Return what a reader should know, each with the run that it is about."""
        notes = [f"{run.name}: {note}" for run in self.runs for note in run.notes()]
        for run in self.runs:
            notes += [
                f"{run.name}: {metric} was NaN in an evaluation; there it counts as not measured"
                for metric in self.metrics
                if metric in run.metrics.undefined
            ]
        return notes


def compare(
    arguments: Sequence[str],
    *,
    metrics: Sequence[str] = (),
    images_per_epoch: int | None = None,
    published: Sequence[str] = (),
) -> Comparison:
    """Read runs, and choose what to compare them by.

    Args:
        arguments: run folders or files, each possibly as ``NAME=PATH``.
        metrics: names; none: box and mask AP, as far as the runs have them.
        images_per_epoch: of the training data, where the runs do not tell.
        published: names, as `published_rows` takes them.

    Raises:
        RecipeError: wrong usage: equal names, an unknown metric, an unknown row.
        DataError: a run cannot be read, or none has an evaluation.
    """
    rows = tuple(row for name in published for row in published_rows(name))
    runs = tuple(
        Run(
            name=name,
            file=file,
            facts=read_facts(file.parent, images_per_epoch),
            metrics=read_metrics(file),
        )
        for name, file in _named_files(arguments)
    )
    available = {name for run in runs for e in run.metrics.evaluations for name in e.values}
    available |= {name for run in runs for name in run.metrics.undefined}
    if not available:
        notes = "; ".join(f"{run.name}: {note}" for run in runs for note in run.notes())
        raise DataError(f"nothing to compare: no run has an evaluation ({notes})")
    chosen = tuple(dict.fromkeys(metrics)) or tuple(m for m in DEFAULT_METRICS if m in available)
    unknown = [metric for metric in chosen if metric not in available]
    if unknown or not chosen:
        asked = f"--metric {unknown[0]}: no run has it" if unknown else "--metric: name one"
        raise RecipeError(f"{asked}; there are {', '.join(_listed(available))}")
    return Comparison(runs=runs, metrics=chosen, published=rows)


def title(metric: str) -> str:
    """Return words for a metric: ``box AP`` for ``bbox/AP``.

    Args:
        metric: its name.
    """
    task, _, name = metric.partition("/")
    return f"{_TASK_TITLES.get(task, task)} {name}"


def _named_files(arguments: Sequence[str]) -> list[tuple[str, Path]]:
    """Return the name and the file of every run.

    Raises:
        RecipeError: two have one name.
    """
    named, given = [], []
    for argument in arguments:
        name, separator, path = argument.partition("=")
        # A folder such as lr=1e-4 is a path.
        is_named = bool(separator and name and path) and not Path(argument).exists()
        file = metrics_file(Path(path if is_named else argument))
        named.append((name if is_named else file.absolute().parent.name, file))
        given.append((name if is_named else argument, file))
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        named, names = given, [name for name, _ in given]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RecipeError(f"two runs are named {twice!r}; tell them apart with NAME=PATH")
    return named


def _listed(available: set[str]) -> list[str]:
    """One name for those of all classes."""
    return sorted({f"{m.partition('/')[0]}/AP-CLASS" if "/AP-" in m else m for m in available})
