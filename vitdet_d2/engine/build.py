# SPDX-License-Identifier: Apache-2.0
"""From a recipe to its parts: device, model, optimizer, schedule, train loader."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.solver import LRMultiplier
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vitdet_d2.checks.square_pad import refuse_cropping
from vitdet_d2.data.loader import build_detection_train_loader
from vitdet_d2.engine.block_options import checkpoint_activations, compile_blocks, freeze_blocks
from vitdet_d2.engine.cuda_graphs import require_cuda_graphs
from vitdet_d2.engine.ema import WeightAverage
from vitdet_d2.engine.settings import TrainSettings
from vitdet_d2.errors import RecipeError
from vitdet_d2.heads.padded_proposals import settle_padding
from vitdet_d2.layers.channel_norm import fuse_channel_norms
from vitdet_d2.solver.fused_step import fuse_steps
from vitdet_d2.solver.layer_decay import check_layer_decay

logger = logging.getLogger(__name__)

# Beyond this, an average tells more of where training began than of where it went.
MAX_SHARE_OF_FIRST_WEIGHTS = 0.01

_UPSTREAM_LOADERS = {
    "detectron2.data.build_detection_train_loader",
    "detectron2.data.build.build_detection_train_loader",
}
# What Detectron2's function and ours both take.
_LOADER_KEYS = {
    "_target_",
    "dataset",
    "mapper",
    "total_batch_size",
    "aspect_ratio_grouping",
    "num_workers",
    "sampler",
    "collate_fn",
}


def resolve_device(name: str, asked_by: str = "train.device") -> torch.device:
    """The device of this process.

    Args:
        name: "auto" takes a GPU where there is one.
        asked_by: the key or argument that gave the name, for messages.

    Raises:
        RecipeError: torch does not know the name, or there is no GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RecipeError(f"{asked_by}: expected auto, cuda or cpu, got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RecipeError(
            f"{asked_by}={name}, but torch {torch.__version__} finds no CUDA device; "
            f"use {asked_by}=auto or {asked_by}=cpu"
        )
    return device


def autocast_dtype(settings: TrainSettings, device: torch.device) -> torch.dtype | None:
    """What the forward pass computes in; None on the CPU, where mixed precision saves nothing."""
    if settings.amp_dtype is not None and device.type == "cpu":
        logger.info("train.amp is off on the CPU")
        return None
    return settings.amp_dtype


def build_model(cfg: DictConfig, device: torch.device) -> nn.Module:
    """Instantiate ``cfg.model`` on a device; it refuses images that its padding would cut off."""
    model = settle_padding(instantiate(cfg.model).to(device))
    return fuse_channel_norms(refuse_cropping(model))


def apply_block_options(
    model: nn.Module, settings: TrainSettings, device: torch.device
) -> list[nn.Module]:
    """Freeze, recompute and compile blocks as the settings ask; returns the frozen modules.

    Raises:
        RecipeError: the model has no transformer for it, or nothing can be compiled here.
    """
    frozen: list[nn.Module] = []
    if settings.freeze_blocks:
        frozen = freeze_blocks(model, settings.freeze_blocks)
        if not settings.init_checkpoint:
            logger.warning(
                "train.freeze_blocks without train.init_checkpoint: unless a run is continued, "
                "these blocks keep random weights"
            )
    selective = settings.activation_checkpointing == "selective"
    if settings.cuda_graphs:
        if settings.fsdp is not None:
            raise RecipeError(
                "train.cuda_graphs: a graph reads weights where they were when it was recorded, "
                "and FSDP gathers them anew; set train.cuda_graphs=false or "
                "train.fsdp.enabled=false"
            )
        require_cuda_graphs(
            device,
            compiled=settings.compile,
            recompute=settings.activation_checkpointing,
            accumulate=settings.accumulate,
        )
    if settings.compile:
        compile_blocks(model, device, recompute_cheap=selective, cuda_graphs=settings.cuda_graphs)
    if settings.activation_checkpointing and not (settings.compile and selective):
        checkpoint_activations(model, settings.activation_checkpointing)
    return frozen


def build_average(model: nn.Module, settings: TrainSettings) -> WeightAverage | None:
    """The average of the model's weights, if one is asked for."""
    decay = settings.ema_decay
    if decay is None:
        return None
    first = decay**settings.max_iter
    if first > MAX_SHARE_OF_FIRST_WEIGHTS:
        logger.warning(
            "train.ema.decay=%g over %d iterations: the first weights still make up %.0f%% of the "
            "average at the end; lower the decay (%.4g leaves 1%%)",
            decay,
            settings.max_iter,
            100 * first,
            MAX_SHARE_OF_FIRST_WEIGHTS ** (1 / max(settings.max_iter, 1)),
        )
    return WeightAverage(model, decay)


def require_batch(cfg: DictConfig, settings: TrainSettings) -> None:
    """Refuse a recipe that says ``train.global_batch`` and is not scaled to it.

    Args:
        cfg: a recipe; reads ``dataloader.train.total_batch_size``.
        settings: of the recipe.

    Raises:
        RecipeError: it is not.
    """
    batch = OmegaConf.select(cfg, "dataloader.train.total_batch_size")
    wanted = settings.global_batch
    if wanted is not None and batch is not None and batch * settings.accumulate != wanted:
        raise RecipeError(
            f"train.global_batch={wanted}, but the recipe has {batch} images per loader batch and "
            f"train.accumulate={settings.accumulate}; call vitdet_d2.solver.scale_recipe(cfg, "
            f"{wanted}) before training"
        )


def build_optimizer(cfg: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Instantiate ``cfg.optimizer``, whose ``params.model`` becomes the model.

    On CUDA its steps are fused, unless the recipe sets ``fused`` or ``foreach``.

    Raises:
        RecipeError: its learning rates decay by layers that the model does not have.
    """
    node = _editable(cfg.optimizer)
    factor = instantiate(OmegaConf.select(node, "params.lr_factor_func"))
    check_layer_decay(factor, (name for name, _ in model.named_parameters()))
    node.params.model = model
    optimizer = instantiate(node)
    fuse_steps(optimizer)
    return optimizer


def build_scheduler(
    cfg: DictConfig, optimizer: torch.optim.Optimizer, max_iter: int
) -> LRMultiplier:
    """Bind ``cfg.lr_multiplier`` to the optimizer, at iteration 0.

    Raises:
        RecipeError: it is not a fvcore schedule.
    """
    multiplier = instantiate(cfg.lr_multiplier)
    if not isinstance(multiplier, ParamScheduler):
        raise RecipeError(
            f"lr_multiplier: expected a fvcore ParamScheduler, got {type(multiplier).__name__}"
        )
    return LRMultiplier(optimizer, multiplier, max(max_iter, 1))


def build_train_loader(cfg: DictConfig, seed: int, device: torch.device | None = None) -> Any:
    """Instantiate ``cfg.dataloader.train`` with a seed for its order and augmentations.

    Detectron2's own loader is replaced by ours, which gives the same batches and can be resumed.

    Args:
        cfg: a recipe.
        seed: taken where the recipe leaves the loader's seed open.
        device: where our loader's batches are used; None: they stay on the CPU.
    """
    node = _editable(cfg.dataloader.train)
    if _name_of(node.get("_target_")) in _UPSTREAM_LOADERS and set(node) <= _LOADER_KEYS:
        logger.info("Using vitdet_d2's train loader in place of Detectron2's: same data, resumable")
        node["_target_"] = build_detection_train_loader
    if _name_of(node.get("_target_")) == _name_of(build_detection_train_loader):
        if node.get("seed") is None:
            node["seed"] = seed
    loader = instantiate(node)
    if not hasattr(loader, "seek"):
        logger.warning(
            "dataloader.train: %s cannot continue in mid-epoch; a resumed run sees other data",
            type(loader).__name__,
        )
    if device is not None and hasattr(loader, "to_device"):
        loader.to_device(device)
    return loader


def _editable(node: DictConfig) -> DictConfig:
    """A copy that takes new keys and objects, with its place in the recipe for references."""
    node = copy.deepcopy(node)
    OmegaConf.set_struct(node, False)
    OmegaConf.set_readonly(node, False)
    node._set_flag("allow_objects", True)
    return node


def _name_of(target: Any) -> str:
    if isinstance(target, str):
        return target
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"
