# SPDX-License-Identifier: Apache-2.0
"""Everything that a run needs to continue as if it had never stopped, in plain types.

The dictionary is Detectron2's (``model``, ``optimizer``, ``scheduler``, ``iteration``) plus
``vitdet_d2`` (what was trained on), ``sampler`` (position in the data), ``rng`` (per rank),
``metrics`` (the window that smoothed metrics look back on), ``unsmoothed`` (the last value of the
others) and, where they are in use, ``grad_scaler`` (float16), ``ema`` (the model's state dict with
averaged weights) and ``loss_normalizers`` (of dense detectors, per rank).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import platform
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import detectron2
import torch
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

import vitdet_d2
from vitdet_d2.engine import loss_normalizers, random_state
from vitdet_d2.engine.ema import WeightAverage
from vitdet_d2.engine.sharded_checkpoint import read_shards, take_out, write_shards
from vitdet_d2.engine.sharded_tensors import gathered, load_model, load_optimizer
from vitdet_d2.engine.trainer import Trainer
from vitdet_d2.engine.whole_copy import WholeCopy
from vitdet_d2.errors import RecipeError, WeightsError
from vitdet_d2.pretrained.model_statistics import (
    carry_normalisation,
    saved_statistics,
    statistics_of,
)
from vitdet_d2.solver.fused_step import keep_kernels

logger = logging.getLogger(__name__)

SCHEMA = 1
# The window over which Detectron2's writers smooth.
METRICS_WINDOW = 20
# The timer warms up anew after each start.
_NOT_CONTINUED = ("time", "eta_seconds")


@dataclass(frozen=True, kw_only=True)
class TrainingParts:
    """What holds state.

    Attributes:
        model: not wrapped for data parallelism.
        optimizer: over the model's parameters.
        scheduler: of the optimizer.
        loader: has ``state()``, ``restore()`` and ``seek()`` if it can be resumed.
        grad_scaler: for float16.
        seed: the run's.
        max_iter: iterations of the run in all.
        thing_classes: names, in the order of the model's outputs.
        dataset_ids: category ids of the data set, in the same order.
        recipe: as JSON, from which it can be run again (`recipe_json.to_json`).
        accumulate: loader batches per iteration.
        average: of the model's weights.
        frozen: modules of the model that are not trained.
        whole_copy: what is evaluated in the model's place where that is sharded.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LRMultiplier
    loader: Any
    grad_scaler: torch.amp.GradScaler | None
    seed: int
    max_iter: int
    thing_classes: Sequence[str]
    dataset_ids: Sequence[int]
    recipe: str
    accumulate: int = 1
    average: WeightAverage | None = None
    frozen: Sequence[nn.Module] = ()
    whole_copy: WholeCopy | None = None

    @contextlib.contextmanager
    def evaluated_model(self) -> Iterator[nn.Module]:
        """Yield a whole model with what is evaluated: the average, where there is one.

        Every process calls it; inside, none needs another.
        """
        if self.whole_copy is not None:
            weights = self.model.state_dict() if self.average is None else self.average.state_dict()
            with self.whole_copy.with_weights(self.model, weights) as model:
                yield model
        elif self.average is not None:
            with self.average.in_place_of_weights():
                yield self.model
        else:
            yield self.model

    def collect(self, trainer: Trainer) -> dict[str, Any]:
        """The state after the trainer's current iteration; called on every rank."""
        return gathered(self._collect(trainer), keep=comm.is_main_process())

    def write_shards(self, folder: Path, trainer: Trainer) -> tuple[dict[str, Any], dict[str, Any]]:
        """Write every rank's share of the tensors; called on every rank.

        Args:
            folder: of the run.
            trainer: whose current iteration is complete.

        Returns:
            The state without these tensors, and entries of its manifest.

        Raises:
            CheckpointWriteError: on every rank, if one of them could not.
        """
        state, tensors = take_out(self._collect(trainer))
        return state, write_shards(folder, trainer.iter, tensors)

    def _collect(self, trainer: Trainer) -> dict[str, Any]:
        rng = comm.gather(random_state.capture())
        normalizers = comm.gather(loss_normalizers.capture(self.model))
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "iteration": trainer.iter,
            "vitdet_d2": self._origin(),
            "rng": rng,
            "metrics": _recent_metrics(trainer.storage),
            "unsmoothed": _unsmoothed_metrics(trainer.storage),
        }
        if hasattr(self.loader, "state"):
            state["sampler"] = dict(self.loader.state())
        if any(normalizers):
            state["loss_normalizers"] = normalizers
        if self.grad_scaler is not None:
            state["grad_scaler"] = self.grad_scaler.state_dict()
        if self.average is not None:
            state["ema"] = self.average.state_dict()
        return state

    def collect_weights(self, iteration: int) -> dict[str, Any]:
        """The weights that evaluations see, as a file of their own; called on every rank.

        Args:
            iteration: the last one completed.
        """
        weights = self.model if self.average is None else self.average
        whole = gathered(weights.state_dict(), keep=comm.is_main_process())
        return {"model": whole, "iteration": iteration, "vitdet_d2": self._origin()}

    def _origin(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "thing_classes": list(self.thing_classes),
            "dataset_ids": [int(i) for i in self.dataset_ids],
            "recipe": self.recipe,
            "seed": self.seed,
            "world_size": comm.get_world_size(),
            **statistics_of(self.model),
        }

    def restore(self, state: Mapping[str, Any], checkpoint: Path | None = None) -> int:
        """Load a collected state, the random generators excepted.

        Args:
            state: of a checkpoint.
            checkpoint: its file, beside which sharded tensors are.

        Returns:
            The iteration to continue with.

        Raises:
            RecipeError: the state belongs to other classes, to another batch size, or to a longer
                run.
            WeightsError: it does not fit the model or optimizer, or a part is missing.
        """
        needed = ("optimizer", "scheduler", "iteration", "vitdet_d2")
        missing = [key for key in needed if key not in state]
        if missing:
            raise WeightsError(f"checkpoint: no {', '.join(missing)}; it cannot be resumed")
        self._require_same_classes(state["vitdet_d2"].get("thing_classes"))
        start_iter = int(state["iteration"]) + 1
        if start_iter > self.max_iter:
            raise RecipeError(
                f"--resume: the checkpoint has {start_iter} iterations behind it, train.max_iter "
                f"is {self.max_iter}; give at least train.max_iter={start_iter}, or start a new "
                "run with another train.output_dir"
            )
        if checkpoint is not None:
            state = read_shards(checkpoint, state, self._like)
        try:
            load_model(self.model, state["model"])
            configured = [dict(g, params=None) for g in self.optimizer.param_groups]
            load_optimizer(self.optimizer, state["optimizer"])
        except (RuntimeError, ValueError) as error:
            # torch lists every tensor, hundreds of them where a width differs.
            reason = textwrap.shorten(str(error), width=400, placeholder=" ...")
            raise WeightsError(
                f"checkpoint: does not fit this recipe, was the recipe changed? {reason}"
            ) from error
        self._restore_statistics(state["vitdet_d2"])
        keep_kernels(self.optimizer, configured)
        _warn_of_other_rates(configured, self.optimizer)
        self.scheduler.load_state_dict(state["scheduler"])
        # The saved rate follows from the schedule; with another max_iter it would be wrong.
        for group, rate in zip(self.optimizer.param_groups, self.scheduler.get_lr(), strict=True):
            group["lr"] = rate
        self._restore_optional(state)
        self._seek(start_iter, state.get("sampler"))
        return start_iter

    def _like(self, place: str) -> Tensor:
        """The tensor whose shape and shards are those that a place of a state wants.

        Raises:
            WeightsError: there is none.
        """
        kind, _, name = place.partition("/")
        if kind == "optimizer":
            number = int(name.split("/")[1])
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            if number < len(parameters):
                return parameters[number]
        elif kind == "ema" and self.average is not None:
            found = self.average.state_dict().get(name)
        else:
            found = self.model.state_dict().get(name)
        if kind == "optimizer" or found is None:
            raise WeightsError(f"checkpoint: no place for {place}; was the recipe changed?")
        return found

    def _restore_statistics(self, saved: Mapping[str, Any]) -> None:
        """Normalise pixels as before, whatever the recipe says."""
        statistics = saved_statistics(saved)
        if statistics is None:
            return
        _, alert = carry_normalisation(self.model, statistics, keep=False)
        if alert:
            logger.info("A resumed run keeps its %s", alert)

    def _restore_optional(self, state: Mapping[str, Any]) -> None:
        """Load what only some runs have; says what starts anew.

        Raises:
            WeightsError: the average does not fit the model.
        """
        loss_normalizers.restore(
            self.model, state.get("loss_normalizers", ()), comm.get_rank(), comm.get_world_size()
        )
        if self.grad_scaler is not None:
            if "grad_scaler" in state:
                self.grad_scaler.load_state_dict(state["grad_scaler"])
            else:
                logger.warning(
                    "The checkpoint has no gradient scale; the search for it starts anew"
                )
        if self.average is None:
            return
        if "ema" not in state:
            logger.warning("The checkpoint has no averaged weights; the average starts at its own")
            self.average.restart()
            return
        try:
            self.average.load_state_dict(state["ema"])
        except ValueError as error:
            raise WeightsError(f"checkpoint: {error}; was the recipe changed?") from error

    def _seek(self, start_iter: int, saved: Mapping[str, int] | None) -> None:
        """Bring the loader to the next batch, by its own record where there is one.

        Raises:
            RecipeError: the record does not fit the batch size.
        """
        if saved is not None and hasattr(self.loader, "restore"):
            try:
                self.loader.restore(dict(saved))
            except ValueError as error:
                raise RecipeError(f"--resume: dataloader.train: {error}") from error
        elif hasattr(self.loader, "seek"):
            self.loader.seek(start_iter * self.accumulate)

    def _require_same_classes(self, saved: Sequence[str] | None) -> None:
        current = list(self.thing_classes)
        if saved is None or not current or list(saved) == current:
            return
        raise RecipeError(
            f"--resume: the checkpoint has {len(saved)} classes ({_shown(saved)}), the data set "
            f"{len(current)} ({_shown(current)}); use the same data, or start a new run with "
            "train.init_checkpoint"
        )


def restore_rng(state: Mapping[str, Any], seed: int) -> None:
    """Put this rank's generators where they were; the last thing before training continues.

    With another number of processes there is no such state: the generators are seeded anew.
    """
    states = state.get("rng") or []
    if len(states) == comm.get_world_size():
        random_state.restore(states[comm.get_rank()])
        return
    logger.warning(
        "The checkpoint was written by %d processes, these are %d: the data continues in the same "
        "order, but the weights will not be those of an uninterrupted run",
        len(states),
        comm.get_world_size(),
    )
    random_state.seed_everything(seed + comm.get_rank() + int(state["iteration"]) + 1)


def restore_metrics(
    storage: EventStorage, state: Mapping[str, Any], written: Mapping[int, Collection[str]]
) -> None:
    """Give the storage what writers had not written yet, and the history that they look back on.

    Args:
        storage: of the run that continues.
        state: a collected state, of which it reads ``metrics`` and ``unsmoothed``.
        written: names of the metrics that the run's files hold, by iteration.
    """
    for name, values in state.get("metrics", {}).items():
        for value, iteration in values:
            storage.put_scalar(name, value, cur_iter=iteration)
    for name, (value, iteration) in state.get("unsmoothed", {}).items():
        storage.put_scalar(name, value, smoothing_hint=False, cur_iter=iteration)
    latest = storage.latest()  # writers write what is in it; taking a value out hides it
    for name, (_, iteration) in list(latest.items()):
        if name in written.get(iteration, ()):
            del latest[name]


def _recent_metrics(storage: EventStorage) -> dict[str, list[tuple[float, int]]]:
    """The last values of what writers smooth."""
    return {
        name: [(float(v), int(i)) for v, i in history.values()[-METRICS_WINDOW:]]
        for name, history in storage.histories().items()
        if storage.smoothing_hints()[name] and name not in _NOT_CONTINUED
    }


def _unsmoothed_metrics(storage: EventStorage) -> dict[str, tuple[float, int]]:
    """The last value of what writers write as it is, with its iteration."""
    latest = {name: history.values()[-1] for name, history in storage.histories().items()}
    return {
        name: (float(value), int(iteration))
        for name, (value, iteration) in latest.items()
        if not storage.smoothing_hints()[name] and name not in _NOT_CONTINUED
    }


def manifest_meta(parts: TrainingParts) -> dict[str, Any]:
    """What a checkpoint's manifest says beside its size and hash."""
    return {
        "world_size": comm.get_world_size(),
        "config_sha256": hashlib.sha256(parts.recipe.encode()).hexdigest(),
        "thing_classes": list(parts.thing_classes),
        "versions": {
            "vitdet_d2": vitdet_d2.__version__,
            "detectron2": detectron2.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def _warn_of_other_rates(
    configured: Sequence[Mapping[str, Any]], optimizer: torch.optim.Optimizer
) -> None:
    for key in ("initial_lr", "weight_decay"):
        asked = sorted({g[key] for g in configured if key in g})
        kept = sorted({g[key] for g in optimizer.param_groups if key in g})
        if asked != kept:
            logger.warning("A resumed run keeps its %s: %s, not %s", key, kept[:3], asked[:3])


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
