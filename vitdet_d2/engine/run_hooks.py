# SPDX-License-Identifier: Apache-2.0
"""The hooks of a run, in the order in which they must stand."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.engine import HookBase
from detectron2.engine.hooks import CallbackHook, IterationTimer, LRScheduler
from detectron2.utils import comm
from omegaconf import DictConfig

from vitdet_d2.engine.best import BestWeights
from vitdet_d2.engine.checkpoint_store import CheckpointStore
from vitdet_d2.engine.evaluate import RESULTS_FOLDER, evaluate_model
from vitdet_d2.engine.hooks.checkpoint import CheckpointHook
from vitdet_d2.engine.hooks.ema import AverageHook
from vitdet_d2.engine.hooks.evaluation import EvaluationHook
from vitdet_d2.engine.hooks.freeze import FrozenHook
from vitdet_d2.engine.interruptible import InterruptibleLoader
from vitdet_d2.engine.metrics_file import METRICS_FILE, written_metrics
from vitdet_d2.engine.progress import progress_hooks
from vitdet_d2.engine.settings import TrainSettings
from vitdet_d2.engine.stop_signals import StopRequest
from vitdet_d2.engine.trainer import Trainer
from vitdet_d2.engine.training_state import TrainingParts, manifest_meta, restore_metrics


def run_hooks(
    cfg: DictConfig,
    settings: TrainSettings,
    parts: TrainingParts,
    store: CheckpointStore,
    trainer: Trainer,
    stop: StopRequest,
    state: Mapping[str, Any],
    start_iter: int,
) -> list[HookBase]:
    """Make the hooks of this process.

    Args:
        cfg: the recipe; reads ``dataloader.test`` and ``dataloader.evaluator``.
        settings: of the recipe.
        parts: what is trained.
        store: where checkpoints go.
        trainer: that will run the hooks.
        stop: the flag that signals set.
        state: of the run that is continued, of which recent metrics are kept; else empty.
        start_iter: the first iteration.
    """

    def evaluate() -> dict[str, Any]:
        def interruptible(loader: Any) -> InterruptibleLoader:
            where = f"stopped in evaluation; saved {trainer.last_checkpoint}; use --resume"
            return InterruptibleLoader(loader, stop, where)

        with parts.evaluated_model() as model:
            return evaluate_model(cfg, model, settings.output_dir, wrap_loader=interruptible)

    meta = manifest_meta(parts)
    best = _best_weights(settings, parts, store, meta)
    average = parts.average
    written = written_metrics(settings.output_dir / METRICS_FILE)
    recent = {key: state[key] for key in ("metrics", "unsmoothed") if key in state}
    hooks: list[HookBase] = [
        CallbackHook(before_train=lambda t: restore_metrics(t.storage, recent, written)),
        FrozenHook(parts.frozen),
        IterationTimer(),
        LRScheduler(parts.optimizer, parts.scheduler),
        *([] if average is None else [AverageHook(average)]),
        CheckpointHook(
            store,
            period=settings.checkpoint_period,
            eval_period=settings.eval_period,
            collect_state=parts.collect,
            meta=meta,
            collect_average=None if average is None else parts.collect_weights,
            write_shards=_shard_writer(settings, parts),
        ),
        EvaluationHook(
            settings.eval_period,
            evaluate,
            record=settings.output_dir / RESULTS_FOLDER / "latest.json",
            written=written.get(start_iter - 1, ()),
            consider=None if best is None else best.consider,
        ),
    ]
    if comm.is_main_process():
        hooks += progress_hooks(
            settings.output_dir,
            start_iter=start_iter,
            max_iter=settings.max_iter,
            log_period=settings.log_period,
        )
    return hooks


def _shard_writer(
    settings: TrainSettings, parts: TrainingParts
) -> Callable[[Trainer], tuple[dict[str, Any], dict[str, Any]]] | None:
    if settings.fsdp is None or settings.fsdp.checkpoints == "whole" or parts.whole_copy is None:
        return None
    return functools.partial(parts.write_shards, settings.output_dir)


def _best_weights(
    settings: TrainSettings, parts: TrainingParts, store: CheckpointStore, meta: Mapping[str, Any]
) -> BestWeights | None:
    if settings.best_metric is None:
        return None
    best = BestWeights(
        store, settings.best_metric, collect_weights=parts.collect_weights, meta=meta
    )
    if comm.is_main_process():
        best.recall()
    return best
