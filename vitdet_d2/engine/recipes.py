# SPDX-License-Identifier: Apache-2.0
"""Load a recipe with its overrides; save what it came to.

Vocabulary:
    recipe: a mapping with ``model, dataloader, optimizer, lr_multiplier, train, data``. Python
        recipes are code and run as such; YAML and JSON ones are data and run nothing.

Keys read here: none; keys completed where a recipe lacks them: ``DEFAULTS``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from vitdet_d2.atomic_write import atomic_write
from vitdet_d2.engine.memory_strategy import apply_memory_strategy
from vitdet_d2.engine.overrides import apply_overrides, given_keys
from vitdet_d2.engine.recipe_json import decode, from_json, to_json
from vitdet_d2.errors import RecipeError
from vitdet_d2.runtime.safe_yaml import load_yaml
from vitdet_d2.solver.batch_plan import MICRO_KEY, read_batch, require_divisible
from vitdet_d2.solver.epochs import prefer_given_length
from vitdet_d2.solver.scaling import ScaledKey, scale_recipe
from vitdet_d2.zoo.python_recipe import load_python_recipe
from vitdet_d2.zoo.recipe_names import find_recipe

# What Detectron2's own recipes lack, and so that every key can be overridden. Detectron2's values
# where it has one; `amp.dtype` counts only where `amp.enabled` is true.
DEFAULTS: dict[str, Any] = {
    "train": {
        "output_dir": "./output",
        "init_checkpoint": "",
        "init_options": {
            "source": None,
            "layer_scale": "auto",
            "patch_resize": "pinv",
            "position_grid": None,
            "absent_positions": "zeros",
            "allow_partial": False,
            "normalisation": "source",
        },
        "max_iter": 90000,
        "amp": {"enabled": False, "dtype": "bf16"},
        "ddp": {
            "broadcast_buffers": False,
            "find_unused_parameters": False,
            "fp16_compression": False,
            "bf16_compression": False,
        },
        "fsdp": {
            "enabled": False,
            "shard_size": None,
            "reshard_after_forward": True,
            "param_dtype": None,
            "checkpoints": "whole",
        },
        "checkpointer": {"period": 5000, "max_to_keep": 100},
        "eval_period": 5000,
        "log_period": 20,
        "device": "auto",
        "seed": None,
        "pictures": 0,
        "global_batch": None,
        "accumulate": 1,
        "clip_grad": {"max_norm": None},
        "ema": {"decay": None},
        "freeze_blocks": 0,
        "activation_checkpointing": False,
        "compile": False,
        "cuda_graphs": False,
        "best_metric": None,
        "epochs": None,
        "warmup_epochs": None,
        "memory_strategy": None,
    },
    "data": {
        "train_json": None,
        "train_images": None,
        "val_json": None,
        "val_images": None,
        "keep_empty": False,
    },
}

_EVALUATED = ("model", "dataloader")
_TRAINED = (*_EVALUATED, "optimizer", "lr_multiplier")


def load_recipe(
    path_or_name: str, overrides: Sequence[str] = (), *, eval_only: bool = False
) -> DictConfig:
    """Load a recipe, complete it with defaults, change it, and scale it to ``train.global_batch``.

    Args:
        path_or_name: a ``.py``, ``.yaml`` or ``.json`` file, or a name.
        overrides: ``key=value``, ``+key=value``, ``~key``.
        eval_only: the optimizer and its schedule may be missing; nothing is scaled.

    Raises:
        RecipeError: it is not found, fails, lacks a part, an override does not fit, or the batch
            cannot be divided.
    """
    return load_scaled_recipe(path_or_name, overrides, eval_only=eval_only)[0]


def load_scaled_recipe(
    path_or_name: str,
    overrides: Sequence[str] = (),
    *,
    eval_only: bool = False,
    num_processes: int = 1,
) -> tuple[DictConfig, list[ScaledKey]]:
    """Do as `load_recipe` does, and say what was scaled.

    Args:
        path_or_name: as there.
        overrides: as there; a key among them stays as given.
        eval_only: as there.
        num_processes: of the run.

    Returns:
        The recipe, and what `vitdet_d2.solver.scale_recipe` returned; nothing without a
        ``train.global_batch``.

    Raises:
        RecipeError: as there.
    """
    path = find_recipe(path_or_name)
    if path.suffix == ".py":
        cfg = load_python_recipe(path)
    else:
        cfg = _load_data(path)
    required = _EVALUATED if eval_only else _TRAINED
    missing = [key for key in required if cfg.get(key) is None]
    if missing:
        raise RecipeError(
            f"{path} is no recipe to run: it lacks {', '.join(missing)} (a recipe has "
            f"{', '.join(required)})"
        )
    cfg = complete(cfg)
    if eval_only:
        apply_overrides(cfg, overrides)
        apply_memory_strategy(cfg)
        return cfg, []
    has_batch = OmegaConf.select(cfg, MICRO_KEY) is not None
    written_for = read_batch(cfg).global_batch if has_batch else None
    apply_overrides(cfg, overrides)
    apply_memory_strategy(cfg)
    prefer_given_length(cfg, given_keys(overrides))
    global_batch = OmegaConf.select(cfg, "train.global_batch")
    if global_batch is not None:
        scaled = scale_recipe(
            cfg,
            global_batch,
            recipe_batch=written_for,
            given=given_keys(overrides),
            num_processes=num_processes,
        )
        return cfg, scaled
    if has_batch:
        require_divisible(read_batch(cfg), num_processes)
    return cfg, []


def complete(cfg: DictConfig) -> DictConfig:
    """Return a recipe with ``DEFAULTS`` where it has no such key; its own values win.

    Args:
        cfg: the recipe, which is left as it is.
    """
    defaults = DictConfig(DEFAULTS, flags={"allow_objects": True})
    completed = copy.deepcopy(cfg)
    for key, values in defaults.items():
        own = cfg.get(key)
        if own is None:
            completed[key] = values
            continue
        completed[key] = OmegaConf.merge(values, own)
        for name, default in values.items():
            # `ema = None` switches it off, and its decay can be overridden all the same.
            if isinstance(default, DictConfig) and completed[key].get(name) is None:
                completed[key][name] = default
    return completed


def _load_data(path: Path) -> DictConfig:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not a text file: {error}") from error
    if path.suffix == ".json":
        return from_json(text, str(path))
    try:
        content = load_yaml(text, str(path))
    except ValueError as error:
        raise RecipeError(str(error)) from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: a recipe must be a mapping, got a {type(content).__name__}")
    return DictConfig(decode(content, str(path)), flags={"allow_objects": True})


def save_resolved(cfg: DictConfig, output_dir: str | Path) -> None:
    """Write ``config.yaml``, to be read, and ``config.json``, exact and to be run again.

    Args:
        cfg: the recipe with all overrides; interpolations stay as they are.
        output_dir: an existing folder.

    Raises:
        OSError: the folder cannot be written to.
    """
    exact = to_json(cfg)
    readable = yaml.safe_dump(
        json.loads(exact), default_flow_style=None, allow_unicode=True, width=100, sort_keys=False
    )
    for name, text in (("config.json", exact), ("config.yaml", readable)):
        with atomic_write(Path(output_dir) / name) as file:
            file.write(text.encode("utf-8"))
