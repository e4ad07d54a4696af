# SPDX-License-Identifier: Apache-2.0
"""The keys of ``cfg.train`` that the engine reads, with what it takes where one is missing.

Detectron2's own recipes lack some of them, and run all the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf

from vitdet_d2.engine.inference_dtype import check_name
from vitdet_d2.engine.init_options import InitOptions, read_init_options
from vitdet_d2.engine.shard_settings import ShardSettings, read_shard_settings
from vitdet_d2.errors import RecipeError
from vitdet_d2.layers.recompute import Recompute, check_recompute
from vitdet_d2.zoo.initialisations import starts_at_random

_AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """``cfg.train``, checked.

    Attributes:
        output_dir: the run folder.
        init_checkpoint: path, address or name of the first weights; empty (also where the recipe
            says ``random``): none.
        init_options: how they are loaded.
        max_iter: iterations in all.
        device: "auto", "cuda" or "cpu", or any name that torch knows.
        amp_dtype: what autocast computes in on a GPU; None where ``amp.enabled`` is false.
        ddp: arguments of `DistributedDataParallel`, ``fp16_compression`` and
            ``bf16_compression``.
        fsdp: how weights are sharded over processes; None: they are not.
        checkpoint_period: iterations between checkpoints (``checkpointer.period``).
        max_to_keep: how many checkpoints stay (``checkpointer.max_to_keep``); None: all.
        eval_period: iterations between evaluations; 0: only at the end.
        log_period: iterations between lines of the log and of ``metrics.json``.
        seed: of everything; None (also where negative): drawn, and logged.
        pictures: how many pictures of predictions are written after training.
        global_batch: images per iteration that the recipe was scaled to; None: the recipe's own
            (`vitdet_d2.solver.scale_recipe`).
        accumulate: loader batches per iteration, that is per step of the optimizer.
        max_grad_norm: to what the norm of all gradients together is clipped
            (``clip_grad.max_norm``); None: not clipped.
        ema_decay: of the moving average of the weights, which is evaluated and saved
            (``ema.decay``); None: no average.
        freeze_blocks: how many blocks of the backbone, from the first, are not trained, nor are
            the patch and position embeddings then.
        activation_checkpointing: whether its blocks are computed again in the backward pass, or
            what is cheap of them ("selective"); False: as the model has it.
        compile: whether its blocks are compiled by ``torch.compile``.
        cuda_graphs: whether the compiled blocks are recorded as CUDA graphs.
        inference_dtype: what evaluation and prediction compute in, by name (`inference_dtype`).
        best_metric: name of the metric of evaluation, such as ``bbox/AP``, at whose highest value
            ``model_best.pth`` is written; None: no such file.
    """

    output_dir: Path
    init_checkpoint: str
    init_options: InitOptions
    max_iter: int
    device: str
    amp_dtype: torch.dtype | None
    ddp: dict[str, Any]
    fsdp: ShardSettings | None
    checkpoint_period: int
    max_to_keep: int | None
    eval_period: int
    log_period: int
    seed: int | None
    pictures: int
    global_batch: int | None
    accumulate: int
    max_grad_norm: float | None
    ema_decay: float | None
    freeze_blocks: int
    activation_checkpointing: Recompute
    compile: bool
    cuda_graphs: bool
    inference_dtype: str
    best_metric: str | None


def read_settings(cfg: DictConfig) -> TrainSettings:
    """Read ``cfg.train``.

    Args:
        cfg: a recipe.

    Raises:
        RecipeError: a value has the wrong type or is out of range.
    """
    seed = _get(cfg, "seed", None)
    first_weights = str(_get(cfg, "init_checkpoint", ""))
    max_to_keep = _get(cfg, "checkpointer.max_to_keep", None)
    return TrainSettings(
        output_dir=Path(str(_get(cfg, "output_dir", "./output"))),
        init_checkpoint="" if starts_at_random(first_weights) else first_weights,
        init_options=read_init_options(cfg),
        max_iter=_count(cfg, "max_iter", 90000, least=0),
        device=str(_get(cfg, "device", "auto")),
        amp_dtype=_amp_dtype(cfg),
        ddp=_plain(cfg, "ddp"),
        fsdp=read_shard_settings(cfg),
        checkpoint_period=_count(cfg, "checkpointer.period", 5000, least=1),
        max_to_keep=None
        if max_to_keep is None
        else _count(cfg, "checkpointer.max_to_keep", 1, least=1),
        eval_period=_count(cfg, "eval_period", 5000, least=0),
        log_period=_count(cfg, "log_period", 20, least=1),
        seed=None if seed is None or int(seed) < 0 else int(seed),
        pictures=_count(cfg, "pictures", 0, least=0),
        global_batch=_optional(cfg, "global_batch", _whole_batch),
        accumulate=_count(cfg, "accumulate", 1, least=1),
        max_grad_norm=_optional(cfg, "clip_grad.max_norm", _max_norm),
        ema_decay=_optional(cfg, "ema.decay", _decay),
        freeze_blocks=_count(cfg, "freeze_blocks", 0, least=0),
        activation_checkpointing=check_recompute(
            "train.activation_checkpointing", _get(cfg, "activation_checkpointing", False)
        ),
        compile=_switch(cfg, "compile"),
        cuda_graphs=_switch(cfg, "cuda_graphs"),
        inference_dtype=check_name(_get(cfg, "inference_dtype", "auto"), "train.inference_dtype"),
        best_metric=_optional(cfg, "best_metric", _metric_name),
    )


def _get(cfg: DictConfig, key: str, default: Any) -> Any:
    # `select` returns None also where a value is None, which then means the default.
    value = OmegaConf.select(cfg, f"train.{key}")
    return default if value is None else value


def _plain(cfg: DictConfig, key: str) -> dict[str, Any]:
    node = _get(cfg, key, {})
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    if not isinstance(plain, dict):
        raise RecipeError(f"train.{key}: expected a mapping, got {plain!r}")
    return {str(name): value for name, value in plain.items()}


def _count(cfg: DictConfig, key: str, default: int, *, least: int) -> int:
    value = _get(cfg, key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or int(value) != value:
        raise RecipeError(f"train.{key}: expected a whole number, got {value!r}")
    if value < least:
        raise RecipeError(f"train.{key}: expected at least {least}, got {value}")
    return int(value)


_Value = TypeVar("_Value")


def _optional(
    cfg: DictConfig, key: str, read: Callable[[DictConfig, str], _Value]
) -> _Value | None:
    return None if _get(cfg, key, None) is None else read(cfg, key)


def _whole_batch(cfg: DictConfig, key: str) -> int:
    return _count(cfg, key, 1, least=1)


def _number(cfg: DictConfig, key: str) -> float:
    value = _get(cfg, key, None)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RecipeError(f"train.{key}: expected a number or null, got {value!r}")
    return float(value)


def _max_norm(cfg: DictConfig, key: str) -> float:
    norm = _number(cfg, key)
    if not (math.isfinite(norm) and norm > 0):
        raise RecipeError(f"train.{key}: expected a number above 0, or null (off), got {norm:g}")
    return norm


def _decay(cfg: DictConfig, key: str) -> float:
    decay = _number(cfg, key)
    if not 0 < decay < 1:
        raise RecipeError(
            f"train.{key}: expected a number between 0 and 1, such as 0.9998, or null (off), got "
            f"{decay:g}"
        )
    return decay


def _switch(cfg: DictConfig, key: str) -> bool:
    value = _get(cfg, key, False)
    if not isinstance(value, bool):
        raise RecipeError(f"train.{key}: expected true or false, got {value!r}")
    return value


def _metric_name(cfg: DictConfig, key: str) -> str:
    name = _get(cfg, key, None)
    if not isinstance(name, str) or not name.strip():
        raise RecipeError(
            f"train.{key}: expected the name of a metric, such as bbox/AP, or null (off), got "
            f"{name!r}"
        )
    return name


def _amp_dtype(cfg: DictConfig) -> torch.dtype | None:
    if not _get(cfg, "amp.enabled", False):
        return None
    name = str(_get(cfg, "amp.dtype", "bf16"))
    if name not in _AMP_DTYPES:
        raise RecipeError(f"train.amp.dtype: expected one of {list(_AMP_DTYPES)}, got {name!r}")
    return _AMP_DTYPES[name]
