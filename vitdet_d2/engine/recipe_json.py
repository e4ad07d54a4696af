# SPDX-License-Identifier: Apache-2.0
"""Recipes as JSON, exactly: what a recipe holds beside plain values survives.

Vocabulary (a mapping with one of these keys stands for something else):
    ``_object_``: a class or function, by its dotted name.
    ``_partial_``: a ``functools.partial`` with ``func``, ``args``, ``kwargs``.
    ``_dataclass_``: an instance, with ``fields``.
    ``_items_``: a mapping whose keys are not all text, as pairs.
    ``_unsaved_``: what has no name to find it by, such as a lambda; fails when it is read.

The target of a call is plain text, as in any recipe. Reading runs no code of the file's choosing:
names are resolved inside ``TRUSTED`` packages only.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.utils.registry import _convert_target_to_string, locate
from omegaconf import DictConfig, OmegaConf, SCMode

from vitdet_d2.errors import RecipeError

TRUSTED_VARIABLE = "VITDET_D2_TRUSTED_MODULES"
# Where the models, optimizers and transforms of recipes live. Of torch only what builds models:
# `torch.hub.load` and `torch.load` would run foreign code.
TRUSTED = (
    "detectron2", "vitdet_d2", "torch.nn", "torch._C._nn", "torch.optim", "torchvision", "fvcore",
    "timm",
)  # fmt: skip

_ABSENT = object()
_MARKS = ("_object_", "_partial_", "_dataclass_", "_items_", "_unsaved_")


def to_json(cfg: DictConfig) -> str:
    """Return a recipe as JSON text; interpolations stay as they are.

    Args:
        cfg: the recipe.
    """
    content = OmegaConf.to_container(cfg, resolve=False, structured_config_mode=SCMode.INSTANTIATE)
    return json.dumps(encode(content), indent=1) + "\n"


def from_json(text: str, source: str) -> DictConfig:
    """Return the recipe that ``to_json`` wrote.

    Args:
        text: the JSON text.
        source: its file, for messages.

    Raises:
        RecipeError: it is not JSON, not a mapping, or names something that is not trusted.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecipeError(f"{source}:{error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{source}: a recipe must be a mapping, got a {type(content).__name__}")
    return DictConfig(decode(content, source), flags={"allow_objects": True})


def changes(before: str, after: str) -> list[str]:
    """Return ``key: old -> new`` for every value that differs between two recipes.

    Args:
        before: JSON text of ``to_json``.
        after: another.
    """
    old, new = (dict(_leaves(json.loads(text), "")) for text in (before, after))
    return [
        f"{key}: {old.get(key, 'none')} -> {new.get(key, 'none')}"
        for key in sorted({*old, *new})
        if old.get(key, _ABSENT) != new.get(key, _ABSENT)
    ]


def _leaves(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else name)
    else:
        yield key, json.dumps(value)


def encode(value: Any) -> Any:
    """Return a value as what JSON has.

    Args:
        value: of a recipe.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return _encode_mapping(value)
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, functools.partial):
        parts = {"func": value.func, "args": value.args, "kwargs": value.keywords}
        return {"_partial_": encode(parts)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"_dataclass_": _name_of(type(value)), "fields": fields}
    if isinstance(value, Path):
        return str(value)
    name = _name_of(value)
    return {"_object_": name} if name is not None else {"_unsaved_": _described(value)}


def _encode_mapping(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    if not all(isinstance(key, str) for key in mapping):
        return {"_items_": [[key, encode(value)] for key, value in mapping.items()]}
    encoded = {key: encode(value) for key, value in mapping.items()}
    target = encoded.get("_target_")
    if isinstance(target, dict) and "_object_" in target:
        encoded["_target_"] = target["_object_"]
    return encoded


def _name_of(value: Any) -> str | None:
    """Return the dotted name that leads back to the same object, None where there is none."""
    if isinstance(value, torch.dtype):
        return str(value)
    if not hasattr(value, "__qualname__") or not getattr(value, "__module__", None):
        return None
    try:
        name = _convert_target_to_string(value)
        return name if locate(name) == value else None
    except (ImportError, AttributeError):
        return None


def _described(value: Any) -> str:
    """Return text that is the same in every process: places in files, no memory addresses."""
    code = getattr(value, "__code__", None)
    if code is not None:
        return f"{value.__qualname__} ({Path(code.co_filename).name}, line {code.co_firstlineno})"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def decode(value: Any, source: str, key: str = "") -> Any:
    """Return what ``encode`` was given; check the names that it calls.

    Args:
        value: from JSON or YAML.
        source: the file, for messages.
        key: dotted place of the value, for messages.

    Raises:
        RecipeError: a name is not found or not trusted, or the value could not be saved.
    """
    if isinstance(value, list):
        return [decode(item, source, f"{key}.{i}") for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    place = f"{source}: {key.removeprefix('.') or 'top level'}"
    for mark in _MARKS:
        if mark in value:
            return _decode_marked(mark, value, source, key, place)
    if isinstance(value.get("_target_"), str):
        trusted_object(value["_target_"], place)
    return {name: decode(item, source, f"{key}.{name}") for name, item in value.items()}


def _decode_marked(mark: str, value: dict[str, Any], source: str, key: str, place: str) -> Any:
    content = value[mark]
    if mark == "_object_":
        return trusted_object(content, place)
    if mark == "_unsaved_":
        raise RecipeError(
            f"{place} was {content}, which has no name to find it by; use the recipe that made "
            "this file, or write a function at the top level of a module there"
        )
    if mark == "_items_":
        return {name: decode(item, source, f"{key}.{name}") for name, item in content}
    if mark == "_partial_":
        parts = decode(content, source, key)
        return functools.partial(parts["func"], *parts["args"], **parts["kwargs"])
    fields = decode(value["fields"], source, key)
    return trusted_object(content, place)(**fields)


def trusted_object(name: str, place: str) -> Any:
    """Return the object with a dotted name, if a data file may name it.

    Args:
        name: dotted.
        place: where it stands, for the message.

    Raises:
        RecipeError: it is not trusted, or not there.
    """
    more = [part.strip() for part in os.environ.get(TRUSTED_VARIABLE, "").split(",")]
    trusted = (*TRUSTED, *filter(None, more))
    if name.startswith("torch.") and isinstance(getattr(torch, name[6:], None), torch.dtype):
        return getattr(torch, name[6:])
    if _is_inside(name, trusted):
        try:
            found = locate(name)
        except ImportError as error:
            raise RecipeError(f"{place}: there is no {name}, or it cannot be imported") from error
        # `torch.nn.os.system` begins well, and leads elsewhere.
        if _is_inside(_home_of(found), trusted):
            return found
    raise RecipeError(
        f"{place}: {name} is outside the packages that a data file may name "
        f"({', '.join(trusted)}); if you trust the file, set {TRUSTED_VARIABLE}="
        f"{name.partition('.')[0]}, or write the recipe in Python"
    )


def _home_of(found: Callable[..., Any]) -> str:
    """Return the module that defines a class or function; its class' for a bound method."""
    if inspect.ismodule(found):
        return ""
    return getattr(found, "__module__", None) or ""


def _is_inside(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)
