# SPDX-License-Identifier: Apache-2.0
"""Recipes as text: YAML, and Python-like lines.

Source: behaviour of detectron2 ``LazyConfig.save`` and ``LazyConfig.to_py``.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import yaml
from detectron2.config.instantiate import dump_dataclass
from detectron2.utils.registry import _convert_target_to_string
from omegaconf import OmegaConf, SCMode

_WIDTH = 9999  # one line per leaf list


def to_yaml_text(cfg: Any, filename: str) -> str:
    """Return a configuration as YAML without tags.

    Args:
        cfg: the configuration, not resolved.
        filename: named in the warning about what can only be read.
    """
    unreadable: list[str] = []
    container = OmegaConf.to_container(
        cfg, resolve=False, structured_config_mode=SCMode.INSTANTIATE
    )
    plain = _plain(container, "", unreadable)
    if unreadable:
        logging.getLogger(__name__).warning(
            "%s is for reading only: YAML cannot express %s", filename, ", ".join(unreadable)
        )
    return yaml.safe_dump(
        plain, default_flow_style=None, allow_unicode=True, width=_WIDTH, sort_keys=True
    )


def _plain(value: Any, path: str, unreadable: list[str]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {key: _plain(item, f"{path}.{key}", unreadable) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}.{i}", unreadable) for i, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dump_dataclass(value), path, unreadable)
    if path.endswith("._target_") and hasattr(value, "__qualname__"):
        return _convert_target_to_string(value)
    unreadable.append(path.removeprefix("."))
    return repr(value)


def to_python_text(cfg: Any, prefix: str) -> str:
    """Return one assignment per line, calls as calls; formatted where ``black`` is installed.

    Args:
        cfg: the configuration; interpolations are resolved.
        prefix: put before every key.
    """
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict), "a recipe is a mapping"
    return _formatted("\n".join(_lines(container, prefix)) + "\n")


def _formatted(text: str) -> str:
    try:
        import black
    except ImportError:
        return text
    try:
        return black.format_str(text, mode=black.Mode())
    except black.InvalidInput:  # an object that shows itself as <...>
        return text


def _lines(mapping: Mapping[Any, Any], prefix: str) -> list[str]:
    if "_target_" in mapping:
        return [f"{prefix.rstrip('.')} = {_expression(mapping)}"]
    lines: list[str] = []
    for key, value in sorted(mapping.items()):
        if isinstance(value, Mapping) and "_target_" not in value:
            lines += _lines(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key} = {_expression(value)}")
    return lines


def _expression(value: Any) -> str:
    if isinstance(value, Mapping) and "_target_" in value:
        target = value["_target_"]
        name = target if isinstance(target, str) else _convert_target_to_string(target)
        arguments = {key: item for key, item in sorted(value.items()) if key != "_target_"}
        return f"{name}({', '.join(f'{k}={_expression(v)}' for k, v in arguments.items())})"
    if isinstance(value, Mapping):
        items = (f"{key!r}: {_expression(item)}" for key, item in sorted(value.items()))
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_expression(item) for item in value)}]"
    return repr(value)
