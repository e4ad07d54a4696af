# SPDX-License-Identifier: Apache-2.0
"""Describe calls (``LazyCall``); load, override and save recipes (``LazyConfig``).

Vocabulary:
    recipe: a Python or YAML file whose top-level mappings and lists are the configuration.

Source: detectron2 ``config/lazy.py``.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config.recipe_files import run_recipe, to_config
from detectron2.config.recipe_text import to_python_text, to_yaml_text
from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import _convert_target_to_string
from omegaconf import DictConfig, ListConfig, OmegaConf

from vitdet_d2.runtime.safe_yaml import load_yaml, parse_value

__all__ = ["LazyCall", "LazyConfig"]


class LazyCall:
    """``LazyCall(f)(a=1)`` describes the call ``f(a=1)`` as a configuration to be edited."""

    def __init__(self, target: Callable[..., Any] | str | Mapping[str, Any]) -> None:
        """Remember what is called.

        Args:
            target: a callable, its dotted name, or the description of a call that returns one.

        Raises:
            TypeError: it is none of these.
        """
        if not (callable(target) or isinstance(target, str | Mapping)):
            raise TypeError(f"target of LazyCall must be callable, a name or a call, got {target}")
        self._target = target

    def __call__(self, **kwargs: Any) -> DictConfig:
        """Describe the call.

        Args:
            **kwargs: its arguments, by keyword only.
        """
        target = self._target
        if dataclasses.is_dataclass(target):
            target = _convert_target_to_string(target)  # OmegaConf would make a schema of the type
        call: dict[str, Any] = {**kwargs, "_target_": target}
        return DictConfig(call, flags={"allow_objects": True})


class LazyConfig:
    """Functions on recipes."""

    @staticmethod
    def load(filename: str, keys: str | tuple[str, ...] | None = None) -> Any:
        """Load a recipe.

        Args:
            filename: a ``.py`` file, which is executed, or a ``.yaml`` file, which is read safely.
                A relative import in a recipe names another recipe file by its place.
            keys: one name, or several; None means all.

        Returns:
            The value of one key, a tuple for several, and a ``DictConfig`` of all configuration
            objects (mappings and lists without a leading underscore) for None.

        Raises:
            ValueError: the file has another ending.
            SyntaxError: the recipe is not Python.
        """
        filename = str(filename).replace("/./", "/")
        ending = os.path.splitext(filename)[1]
        if ending not in (".py", ".yaml", ".yml"):
            raise ValueError(f"a recipe must end in .py, .yaml or .yml, got {filename}")
        if ending == ".py":
            names: Any = run_recipe(filename)
        else:
            with PathManager.open(filename) as file:
                content = load_yaml(file.read(), filename)
            names = OmegaConf.create(content, flags={"allow_objects": True})
        if isinstance(keys, str):
            return to_config(names[keys])
        if keys is not None:
            return tuple(to_config(names[key]) for key in keys)
        if ending != ".py":
            return names
        configs = {
            name: to_config(value)
            for name, value in names.items()
            if isinstance(value, DictConfig | ListConfig | dict) and not name.startswith("_")
        }
        return DictConfig(configs, flags={"allow_objects": True})

    @staticmethod
    def load_rel(filename: str, keys: str | tuple[str, ...] | None = None) -> Any:
        """Load a recipe whose path is relative to the file of the caller.

        Args:
            filename: relative path.
            keys: as in ``load``.
        """
        caller = sys._getframe(1).f_code.co_filename
        return LazyConfig.load(str(Path(caller).parent / filename), keys)

    @staticmethod
    def save(cfg: Any, filename: str) -> None:
        """Write a configuration as YAML, with targets by name.

        What YAML cannot express (a ``functools.partial``, a lambda) is written as text and warned
        of: such a file is for reading. Nothing is pickled.

        Args:
            cfg: the configuration; interpolations stay as they are.
            filename: of the YAML file.
        """
        with PathManager.open(filename, "w") as file:
            file.write(to_yaml_text(cfg, filename))

    @staticmethod
    def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
        """Set keys in place, as on a command line; a key that does not exist is added.

        Args:
            cfg: the configuration.
            overrides: ``key=value``, the value read as YAML: ``model.depth=12``, ``lr=1e-4``.

        Returns:
            ``cfg`` itself.

        Raises:
            ValueError: there is no ``=``, or the value is not YAML.
            KeyError: a part of the key holds a plain value, not a configuration.
        """
        for override in overrides:
            key, equals, text = override.partition("=")
            if not equals or not key:
                raise ValueError(f"an override must be key=value, got {override!r}")
            try:
                value = parse_value(text)
            except yaml.YAMLError as error:
                raise ValueError(f"override {override!r}: the value is not YAML") from error
            _check_path(cfg, key)
            OmegaConf.update(cfg, key, value, merge=True)
        return cfg

    @staticmethod
    def to_py(cfg: Any, prefix: str = "cfg.") -> str:
        """Return the configuration as Python-like text, for reading.

        Args:
            cfg: the configuration; interpolations are resolved.
            prefix: put before every key.
        """
        return to_python_text(cfg, prefix)


def _check_path(cfg: DictConfig, key: str) -> None:
    parts = key.split(".")
    for end in range(1, len(parts)):
        prefix = ".".join(parts[:end])
        value = OmegaConf.select(cfg, prefix, default=None)
        if value is None:
            return
        if not OmegaConf.is_config(value):
            raise KeyError(f"cannot set {key}: {prefix} is a {type(value).__name__}")
