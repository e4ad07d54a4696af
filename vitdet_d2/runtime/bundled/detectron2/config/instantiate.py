# SPDX-License-Identifier: Apache-2.0
"""From a described call to its result.

Source: detectron2 ``config/instantiate.py``.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from detectron2.utils.registry import _convert_target_to_string, locate
from omegaconf import DictConfig, ListConfig, OmegaConf

__all__ = ["dump_dataclass", "instantiate"]


def dump_dataclass(obj: Any) -> dict[str, Any]:
    """Describe a dataclass instance as a call of its class; inverse of ``instantiate``.

    Args:
        obj: the instance; its fields may hold dataclass instances, also in lists.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(obj, type) or not dataclasses.is_dataclass(obj):
        raise TypeError(f"dump_dataclass needs a dataclass instance, got {obj!r}")
    fields = {field.name: _dump(getattr(obj, field.name)) for field in dataclasses.fields(obj)}
    return {"_target_": _convert_target_to_string(type(obj)), **fields}


def _dump(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_dump(item) for item in value]
    is_instance = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return dump_dataclass(value) if is_instance else value


def instantiate(cfg: Any) -> Any:
    """Make the calls that a recipe describes, innermost first.

    Args:
        cfg: a mapping with ``_target_`` (a callable or its dotted name) and keyword arguments; a
            list of such; a structured config of OmegaConf. Anything else is returned as it is.

    Raises:
        ImportError: the name of a target is not found.
        TypeError: a target is not callable, or does not take the arguments.
    """
    if isinstance(cfg, ListConfig):
        return ListConfig([instantiate(item) for item in cfg], flags={"allow_objects": True})
    if isinstance(cfg, list):
        return [instantiate(item) for item in cfg]
    if isinstance(cfg, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(cfg)):
        return OmegaConf.to_object(cfg)
    if not isinstance(cfg, Mapping) or "_target_" not in cfg:
        return cfg
    arguments = {name: instantiate(value) for name, value in cfg.items()}
    return _call(arguments.pop("_target_"), arguments)


def _call(target: Any, arguments: dict[str, Any]) -> Any:
    name = target if isinstance(target, str) else getattr(target, "__qualname__", str(target))
    function = locate(target) if isinstance(target, str) else target
    if not callable(function):
        raise TypeError(f"_target_ must name something callable, got {name}: {function!r}")
    try:
        return function(**arguments)
    except TypeError:
        # The traceback ends in the callee; which part of the recipe it was is said here only.
        logging.getLogger(__name__).error(
            "Failed to build %s from the arguments %s", name, sorted(arguments)
        )
        raise
