# SPDX-License-Identifier: Apache-2.0
"""A recipe of ours as Detectron2 would run it: every part of ours replaced by Detectron2's own."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf, SCMode

from vitdet_d2.errors import RecipeError

_OURS, _THEIRS = "vitdet_d2", "detectron2"
# Classes that do not derive from Detectron2's, by the name they have there.
_NAMESAKES = {"ViT": "detectron2.modeling", "SimpleFeaturePyramid": "detectron2.modeling"}
# Values that leave a part as Detectron2 has it, other than the default of the argument.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "act": (None, "gelu"),
    "mlp": ("gelu",),
    "pad_proposals": (True, False),  # proposals of fixed number, the missing ones empty
}


def to_detectron2(node: Any) -> Any:
    """Return a copy of a part of a recipe in which only Detectron2's classes are named.

    Args:
        node: of a recipe, with references resolved.

    Raises:
        RecipeError: a part or a setting of ours has no counterpart there.
    """
    if isinstance(node, ListConfig | list | tuple):
        return [to_detectron2(item) for item in node]
    if not isinstance(node, DictConfig | dict):
        return node
    values = {str(key): to_detectron2(value) for key, value in node.items()}
    target = values.get("_target_")
    if target is None:
        return values
    target = locate(target) if isinstance(target, str) else target
    if not inspect.isclass(target) or _package(target) != _OURS:
        return {**values, "_target_": target}
    return _exchanged(target, {k: v for k, v in values.items() if k != "_target_"})


def resolved(node: DictConfig) -> Any:
    """Return a part of a recipe as plain containers and objects, with references resolved.

    Args:
        node: of a recipe.
    """
    return OmegaConf.to_container(node, resolve=True, structured_config_mode=SCMode.INSTANTIATE)


def _exchanged(target: type, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the call of Detectron2's class in place of ours.

    Raises:
        RecipeError: it lacks a setting that is not at its default.
    """
    theirs = _counterpart(target)
    own = inspect.signature(target).parameters
    known = _arguments(theirs)
    kept = {name: value for name, value in arguments.items() if name in known}
    for name in arguments.keys() - kept.keys():
        neutral = _NEUTRAL.get(name, ())
        if arguments[name] not in (*neutral, own[name].default if name in own else None):
            raise RecipeError(
                f"{target.__name__}.{name}={arguments[name]!r}: Detectron2's {theirs.__name__} has "
                "no such setting, so that the two cannot be compared; leave it at its default"
            )
    return {**kept, "_target_": theirs}


def _arguments(target: type) -> set[str]:
    """Return the names that a constructor takes, those that it hands on to its bases among them."""
    found: set[str] = set()
    for base in target.__mro__:
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        found |= {p.name for p in parameters}
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return found


def _counterpart(target: type) -> type:
    """Return Detectron2's class of the same name, or the nearest of its classes that ours is.

    Raises:
        RecipeError: there is none.
    """
    module = _NAMESAKES.get(target.__name__)
    if module is not None:
        namesake: type = getattr(importlib.import_module(module), target.__name__)
        return namesake
    for base in target.__mro__[1:]:
        if _package(base) == _THEIRS and not inspect.isabstract(base):
            return base
    raise RecipeError(
        f"{target.__name__}: Detectron2 has no such part, so that the two cannot be compared; "
        "use --no-detectron2, or another recipe"
    )


def _package(target: type) -> str:
    return target.__module__.partition(".")[0]
