# SPDX-License-Identifier: Apache-2.0
"""Keeps the weights that scored highest in an evaluation: ``model_best.pth``.

The file's manifest holds the metric, its value and the iteration, and so survives what the run
does not.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import detectron2.evaluation
from detectron2.utils import comm
from detectron2.utils.registry import locate
from omegaconf import DictConfig

from vitdet_d2.engine.checkpoint_store import BEST, CheckpointStore, CheckpointWriteError
from vitdet_d2.errors import RecipeError, UserError
from vitdet_d2.evaluation.lvis_evaluator import LVISEvaluator
from vitdet_d2.evaluation.lvis_scoring import MAX_DETECTIONS

logger = logging.getLogger(__name__)

BEST_METRIC_KEY = "train.best_metric"
_SIZES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_FREQUENCIES = ("APr", "APc", "APf")
_TASKS = ("bbox", "segm")


class BestWeights:
    """Writes the weights whenever the metric is higher than ever before; NaN never is."""

    def __init__(
        self,
        store: CheckpointStore,
        metric: str,
        *,
        collect_weights: Callable[[int], dict[str, Any]],
        meta: Mapping[str, Any],
    ) -> None:
        """Remember what to watch; nothing is read yet.

        Args:
            store: of the run.
            metric: its name in the results of evaluation, ``task/metric``; higher is better.
            collect_weights: the weights that were evaluated, given the iteration; called on
                every rank, used on the main process.
            meta: entries of the manifest.
        """
        self._store = store
        self._metric = metric
        self._collect_weights = collect_weights
        self._meta = meta
        self._highest = -math.inf

    def recall(self) -> None:
        """Take up the best value of the run so far; main process only.

        A file that is missing or damaged counts for nothing, and neither does one by another
        metric; both are said.
        """
        record = self._store.weights_record(BEST)
        if record is None:
            return
        if isinstance(record, str):
            logger.warning("%s is forgotten: %s", BEST, record)
            return
        best = record.manifest.get("best", {})
        if best.get("metric") != self._metric:
            logger.warning(
                "%s is by %s, not by %s; the next evaluation replaces it",
                BEST,
                best.get("metric"),
                self._metric,
            )
            return
        self._highest = float(best["value"])

    def consider(self, numbers: Mapping[str, float], iteration: int) -> None:
        """Save the weights if they are the best; called on every rank.

        Args:
            numbers: flat results of the evaluation; empty on all but the main process.
            iteration: the one after which the weights are as they were evaluated.

        Raises:
            RecipeError: on every rank, if there is no such metric.
            CheckpointWriteError: on every rank, if the file system refused.
        """
        value, message = comm.all_gather(self._better(numbers))[0]
        if message:
            raise RecipeError(message)
        if value is None:
            return
        weights = self._collect_weights(iteration)
        failure = ""
        if comm.is_main_process():
            try:
                self._save(weights, value, iteration)
            except UserError as error:
                failure = str(error)
        failure = comm.all_gather(failure)[0]
        if failure:
            raise CheckpointWriteError(failure)

    def _better(self, numbers: Mapping[str, float]) -> tuple[float | None, str]:
        """The metric's value if it is the best, and what is wrong with the metric."""
        if not comm.is_main_process() or not numbers:
            return None, ""
        if self._metric not in numbers:
            return None, str(unknown_metric(self._metric, numbers))
        value = float(numbers[self._metric])
        if value > self._highest and math.isfinite(value):
            return value, ""
        logger.info("%s %.4g; the best is %.4g", self._metric, value, self._highest)
        return None, ""

    def _save(self, weights: Mapping[str, Any], value: float, iteration: int) -> None:
        path = self._store.save_weights(
            BEST,
            weights,
            iteration=iteration,
            meta={**self._meta, "best": {"metric": self._metric, "value": value}},
        )
        self._highest = value
        logger.info(
            "%s %.4g after iteration %d is the best so far; saved %s",
            self._metric,
            value,
            iteration,
            path,
        )


def require_metric(
    cfg: DictConfig, metric: str, thing_classes: Sequence[str] | None, key: str = BEST_METRIC_KEY
) -> None:
    """Refuse a metric that the recipe's evaluator never has, where that can be known beforehand.

    Args:
        cfg: a recipe.
        metric: asked for by `key`.
        thing_classes: names of the data set's classes; None: not known, any name is taken.
        key: recipe key or option, for messages.

    Raises:
        RecipeError: there is no such metric, or no evaluator.
    """
    node = cfg.dataloader.get("evaluator")
    if node is None:
        raise RecipeError(
            f"{key}={metric}: the recipe has no dataloader.evaluator, so nothing is measured; add "
            f"one{', or set ' + key + '=null' if key == BEST_METRIC_KEY else ''}"
        )
    if thing_classes is None:
        thing_classes = [metric.partition("/AP-")[2]]
    known: list[str] = []
    for part in node if isinstance(node, Sequence) else [node]:
        names = _metrics_of(part, thing_classes)
        if names is None:
            return
        known += names
    if metric not in known:
        error = unknown_metric(metric, known, key)
        raise error


def _metrics_of(node: Any, thing_classes: Sequence[str]) -> list[str] | None:
    """What one evaluator measures; None where only its results tell."""
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    target = locate(target) if isinstance(target, str) else target
    if not isinstance(target, type):
        return None
    sizes: Sequence[str]
    if issubclass(target, detectron2.evaluation.COCOEvaluator):
        sizes = (*_SIZES, *(f"AP-{name}" for name in thing_classes))
    elif issubclass(target, LVISEvaluator):
        limit = node.get("max_dets_per_image") or MAX_DETECTIONS
        sizes = (*_SIZES, *_FREQUENCIES, *(f"AR{letter}@{limit}" for letter in ("", *"sml")))
    elif any(base.__name__ == "LVISEvaluator" for base in target.__mro__):  # Detectron2's
        sizes = (*_SIZES, *_FREQUENCIES)
    else:
        return None
    return [f"{task}/{size}" for task in node.get("tasks") or _TASKS for size in sizes]


def unknown_metric(
    metric: str, available: Iterable[str], key: str = BEST_METRIC_KEY
) -> RecipeError:
    """Return the error that lists what there is, one name for all classes.

    Args:
        metric: asked for by `key`.
        available: names of metrics.
        key: recipe key or option.
    """
    shown = dict.fromkeys(
        f"{name.partition('/AP-')[0]}/AP-CLASS" if "/AP-" in name else name for name in available
    )
    return RecipeError(f"{key}: there is no metric {metric!r}; there are {', '.join(shown)}")
