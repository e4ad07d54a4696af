# SPDX-License-Identifier: Apache-2.0
"""Load a recipe with its overrides; save what it came to.

Vocabulary:
    recipe: a mapping with ``model, dataloader, optimizer, lr_multiplier, train, data``. Python
        recipes are code and run as such; YAML and JSON ones are data and run nothing.

Keys read here: none; keys completed where a recipe lacks them: ``DEFAULTS``.
"""

from __future__ import annotations

import builtins
import copy
import json
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import LazyConfig
from omegaconf import DictConfig, OmegaConf

from vitdet_d2.engine.atomic_write import atomic_write
from vitdet_d2.engine.overrides import apply_overrides
from vitdet_d2.engine.recipe_json import decode, from_json, to_json
from vitdet_d2.engine.recipe_names import find_recipe
from vitdet_d2.errors import RecipeError
from vitdet_d2.runtime.safe_yaml import load_yaml

# What Detectron2's own recipes lack, and so that every key can be overridden. Detectron2's values
# where it has one; `amp.dtype` counts only where `amp.enabled` is true.
DEFAULTS: dict[str, Any] = {
    "train": {
        "output_dir": "./output",
        "init_checkpoint": "",
        "max_iter": 90000,
        "amp": {"enabled": False, "dtype": "bf16"},
        "ddp": {
            "broadcast_buffers": False,
            "find_unused_parameters": False,
            "fp16_compression": False,
        },
        "checkpointer": {"period": 5000, "max_to_keep": 100},
        "eval_period": 5000,
        "log_period": 20,
        "device": "auto",
        "seed": None,
        "pictures": 0,
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
    """Load a recipe, complete it with defaults, and change it.

    Args:
        path_or_name: a ``.py``, ``.yaml`` or ``.json`` file, or a name.
        overrides: ``key=value``, ``+key=value``, ``~key``.
        eval_only: the optimizer and its schedule may be missing.

    Raises:
        RecipeError: it is not found, fails, lacks a part, or an override does not fit.
    """
    path = find_recipe(path_or_name)
    if path.suffix == ".py":
        cfg = _load_python(path)
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
    apply_overrides(cfg, overrides)
    return cfg


def complete(cfg: DictConfig) -> DictConfig:
    """Return a recipe with ``DEFAULTS`` where it has no such key; its own values win.

    Args:
        cfg: the recipe, which is left as it is.
    """
    defaults = DictConfig(DEFAULTS, flags={"allow_objects": True})
    completed = copy.deepcopy(cfg)
    for key, values in defaults.items():
        own = cfg.get(key)
        completed[key] = values if own is None else OmegaConf.merge(values, own)
    return completed


def _load_python(path: Path) -> DictConfig:
    # Detectron2's own loader leaves its import hook behind when a recipe fails.
    own_import = builtins.__import__
    try:
        return LazyConfig.load(str(path))
    except SyntaxError as error:
        raise RecipeError(_syntax_error(path, error)) from error
    except RecipeError:
        raise
    except Exception as error:
        raise RecipeError(_failure(path, error)) from error
    finally:
        builtins.__import__ = own_import


def _syntax_error(path: Path, error: SyntaxError) -> str:
    # An installed Detectron2 wraps the error, and names the file in its text only.
    cause = error.__cause__ if isinstance(error.__cause__, SyntaxError) else error
    wrapped = re.fullmatch(r"Config file (.+) has syntax error!", str(error.msg))
    file = wrapped[1] if wrapped else cause.filename or path
    return f"{file}:{cause.lineno}: syntax error: {cause.msg}"


def _failure(path: Path, error: Exception) -> str:
    """Return one line with the place in the recipe, not in what the recipe called."""
    place = str(path)
    for frame, line in traceback.walk_tb(error.__traceback__):
        package = frame.f_globals.get("__package__") or ""
        if package.startswith("detectron2._cfg_loader"):
            place = f"{frame.f_code.co_filename}:{line}"
    reason = " ".join(str(error).split()) or "no message"
    if isinstance(error, ModuleNotFoundError) and error.name == "pkg_resources":
        reason += (
            "; the installed Detectron2 needs it: `pip install 'setuptools<82'`, or set "
            "VITDET_D2_RUNTIME=bundled"
        )
    return f"{place}: {type(error).__name__}: {reason}"


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
