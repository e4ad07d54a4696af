# SPDX-License-Identifier: Apache-2.0
"""Train the model of a recipe, from the start or from where it stopped.

The resume contract: on the same machine, with the same number of processes and the same versions,
on the CPU, "train to N" and "train to k, be killed, resume to N" end with bit-identical weights.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vitdet_d2.engine import random_state
from vitdet_d2.engine.attention_choice import choose_attention
from vitdet_d2.engine.batch_norm import settle_batch_norms
from vitdet_d2.engine.best import require_metric
from vitdet_d2.engine.build import (
    apply_block_options,
    autocast_dtype,
    build_average,
    build_model,
    build_optimizer,
    build_scheduler,
    build_train_loader,
    require_batch,
    resolve_device,
)
from vitdet_d2.engine.checkpoint_store import FINAL, CheckpointStore
from vitdet_d2.engine.evaluate import draw_pictures
from vitdet_d2.engine.init_options import save_load_report
from vitdet_d2.engine.inputs import prepare_inputs
from vitdet_d2.engine.parallel import wrap_parallel
from vitdet_d2.engine.recipe_json import to_json
from vitdet_d2.engine.recipe_statistics import use_statistics
from vitdet_d2.engine.run_hooks import run_hooks
from vitdet_d2.engine.settings import TrainSettings, read_settings
from vitdet_d2.engine.sharding import shard_model
from vitdet_d2.engine.stop_signals import StopRequest
from vitdet_d2.engine.trainer import Trainer
from vitdet_d2.engine.training_state import TrainingParts, restore_rng
from vitdet_d2.engine.whole_copy import WholeCopy
from vitdet_d2.errors import RecipeError
from vitdet_d2.solver.batch_plan import MICRO_KEY
from vitdet_d2.solver.epochs import settle_epochs

logger = logging.getLogger(__name__)

Resume = Literal["never", "required", "auto"]


def do_train(
    cfg: DictConfig,
    *,
    resume: Resume = "never",
    on_accepted: Callable[[DictConfig], object] | None = None,
) -> None:
    """Train; runs in every process. The run folder exists and is this run's.

    Args:
        cfg: a recipe with all overrides; reads `TrainSettings`, ``model``, ``dataloader``,
            ``optimizer`` and ``lr_multiplier``.
        resume: "never" starts anew, "required" continues the newest verified checkpoint of the
            run folder, "auto" does that where there is one.
        on_accepted: called with the recipe as it runs once data, model and checkpoint have been
            accepted, before the first iteration.

    Raises:
        RecipeError: a setting is wrong, or there is nothing to resume.
        DataError: the data cannot be used.
        WeightsError: a checkpoint cannot be read or does not fit.
        NonFiniteError: a loss or gradient became NaN or Inf.
        StoppedBySignal: a signal asked for it; the state was saved.
    """
    settings = read_settings(cfg)
    require_batch(cfg, settings)
    device = resolve_device(settings.device)
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    store = CheckpointStore(settings.output_dir, max_to_keep=settings.max_to_keep)
    found = _find_checkpoint(store, resume)
    first_weights = settings.init_checkpoint if found is None else ""
    info = prepare_inputs(cfg, first_weights, training=True)
    settle_epochs(cfg, info.num_train_images)
    settings = read_settings(cfg)
    state = store.load(found) if found is not None else None
    seed = _choose_seed(settings.seed, state)
    random_state.seed_everything(seed + comm.get_rank())

    precision = autocast_dtype(settings, device)
    parts = _build_parts(cfg, settings, device, seed, info, precision, first_weights)
    start_iter = 0
    if state is not None:
        start_iter = parts.restore(state, found)
        logger.info("Resuming from %s at iteration %d", found, start_iter)
    elif not first_weights:
        logger.info("train.init_checkpoint names no weights: training starts at random ones")
    use_statistics(cfg, parts.model)
    parts = dataclasses.replace(parts, recipe=to_json(cfg))

    with StopRequest() as stop:
        trainer = Trainer(
            wrap_parallel(parts.model, settings),
            parts.loader,
            parts.optimizer,
            autocast_dtype=precision,
            grad_scaler=parts.grad_scaler,
            stop=stop,
            accumulate=settings.accumulate,
            max_grad_norm=settings.max_grad_norm,
        )
        trainer.last_checkpoint = str(found) if found is not None else "none yet"
        hooks = run_hooks(cfg, settings, parts, store, trainer, stop, state or {}, start_iter)
        trainer.register_hooks(hooks)
        if state is not None:
            restore_rng(state, seed)
        del state
        if on_accepted is not None:
            on_accepted(cfg)
        trainer.train(start_iter, settings.max_iter)
    if settings.pictures:
        with parts.evaluated_model() as model:
            if comm.is_main_process():
                draw_pictures(cfg, model, settings.output_dir, count=settings.pictures)
    logger.info("Trained for %d iterations; weights in %s", settings.max_iter, store.folder / FINAL)
    comm.synchronize()


def _find_checkpoint(store: CheckpointStore, resume: Resume) -> Path | None:
    """The checkpoint to continue from, the same on every rank.

    Raises:
        RecipeError: one is required and there is none, or not every process sees it.
    """
    outcome: tuple[str, str] = ("", "")
    if comm.is_main_process():
        store.remove_debris()
        found = store.newest_verified() if resume != "never" else None
        outcome = (str(found or ""), store.describe_contents())
    name, contents = comm.all_gather(outcome)[0]
    if not name:
        if resume == "required":
            raise RecipeError(
                f"--resume: {contents}; check train.output_dir, or use --resume=auto to start anew "
                "where there is nothing to continue"
            )
        return None
    path = Path(name)
    blind = [r for r, sees in enumerate(comm.all_gather(path.is_file())) if not sees]
    if blind:
        raise RecipeError(
            f"--resume: {path} is not visible to ranks {blind}; train.output_dir must be a folder "
            "that all machines share"
        )
    return path


def _choose_seed(configured: int | None, state: dict[str, Any] | None) -> int:
    """The run's seed: the checkpoint's, the recipe's, or one drawn by the main process."""
    if state is not None and "seed" in state.get("vitdet_d2", {}):
        saved = int(state["vitdet_d2"]["seed"])
        if configured not in (None, saved):
            logger.warning("A resumed run keeps its seed: %d, not %s", saved, configured)
        return saved
    if configured is not None:
        return configured
    drawn = int(torch.Generator().seed() % random_state.SEED_LIMIT)
    seed = comm.all_gather(drawn)[0]
    logger.info("train.seed is not set: drew %d", seed)
    return seed


def _images_per_process(cfg: DictConfig) -> int | None:
    """Return the images of a loader batch, where the recipe says how many."""
    batch = OmegaConf.select(cfg, MICRO_KEY)
    return None if batch is None else int(batch) // comm.get_world_size()


def _build_parts(
    cfg: DictConfig,
    settings: TrainSettings,
    device: torch.device,
    seed: int,
    info: Any,
    precision: torch.dtype | None,
    first_weights: str,
) -> TrainingParts:
    if settings.best_metric is not None:
        require_metric(cfg, settings.best_metric, info.thing_classes)
    model = settle_batch_norms(
        build_model(cfg, device), device, comm.get_world_size(), _images_per_process(cfg)
    )
    logger.debug("Model:\n%s", model)
    choose_attention(model, precision, training=True)
    if first_weights:
        report = settings.init_options.load(model, first_weights)
        if comm.is_main_process():
            save_load_report(report, settings.output_dir)
    frozen = apply_block_options(model, settings, device)
    whole_copy = _shard(model, settings, device, precision)
    optimizer = build_optimizer(cfg, model)
    use_scaler = precision is torch.float16
    return TrainingParts(
        model=model,
        optimizer=optimizer,
        scheduler=build_scheduler(cfg, optimizer, settings.max_iter),
        loader=build_train_loader(cfg, seed, device),
        grad_scaler=torch.amp.GradScaler(device.type) if use_scaler else None,
        seed=seed,
        max_iter=settings.max_iter,
        thing_classes=info.thing_classes,
        dataset_ids=info.dataset_ids,
        recipe=to_json(cfg),
        accumulate=settings.accumulate,
        average=build_average(model, settings),
        frozen=frozen,
        whole_copy=whole_copy,
    )


def _shard(
    model: nn.Module, settings: TrainSettings, device: torch.device, precision: torch.dtype | None
) -> WholeCopy | None:
    """Shard the model if that is asked for; return what is evaluated in its place."""
    wanted = settings.fsdp
    if wanted is None:
        return None
    if comm.get_world_size() == 1:
        logger.info("train.fsdp: one process has nothing to share")
        return None
    if wanted.param_dtype is not None and precision is None:
        logger.info("train.fsdp.param_dtype is ignored where mixed precision is off")
        wanted = dataclasses.replace(wanted, param_dtype=None)
    whole_copy = WholeCopy(model)
    shard_model(model, wanted, device)
    return whole_copy
