# SPDX-License-Identifier: Apache-2.0
"""The yacs configuration: a tree of keys with defaults, changed by YAML files.

Source: behaviour of detectron2 ``config/config.py`` and fvcore ``common/config.py``.
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Mapping
from typing import IO, Any

from detectron2.config.call_with_cfg import configurable
from detectron2.utils.file_io import PathManager
from fvcore.common.config import BASE_KEY
from fvcore.common.config import CfgNode as _CfgNode

from vitdet_d2.runtime.safe_yaml import load_yaml

__all__ = ["CfgNode", "configurable", "get_cfg", "global_cfg", "set_global_cfg"]

logger = logging.getLogger(__name__)


class CfgNode(_CfgNode):
    """A node of the tree: keys as attributes, values of YAML's plain types, or nodes."""

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[Any]:
        return PathManager.open(filename, "r")

    @classmethod
    def load_yaml_with_base(
        cls,
        filename: str,
        allow_unsafe: bool = False,  # noqa: ARG003  (part of the interface)
    ) -> dict[str, Any]:
        """Return the content of a YAML file over that of the files it names as ``_BASE_``.

        Args:
            filename: the file; a relative ``_BASE_`` is relative to its folder.
            allow_unsafe: without effect: YAML is read without running code.

        Raises:
            ValueError: it is not plain YAML, not a mapping, or its bases name each other in a
                circle.
        """
        return _load_with_bases(cls, filename, ())

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = True) -> None:
        """Take over what a YAML file says; files of older versions are translated.

        Args:
            cfg_filename: the file.
            allow_unsafe: without effect: YAML is read without running code.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not plain YAML, its version is newer than ours, or a value has
                another type than the default.
            KeyError: it sets a key that does not exist.
        """
        # Both import this module.
        from detectron2.config.compat import downgrade_config, guess_version, upgrade_config
        from detectron2.config.defaults import _C

        if not PathManager.isfile(cfg_filename):
            raise FileNotFoundError(f"the configuration {cfg_filename!r} does not exist")
        if self.VERSION != _C.VERSION:
            raise ValueError(
                f"merge_from_file needs a configuration of version {_C.VERSION}, this one has "
                f"{self.VERSION}; upgrade_config() gives one"
            )
        loaded = type(self)(self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe))
        version = loaded.get("VERSION", None)
        if version is None:
            version = guess_version(loaded, cfg_filename)
        if version > self.VERSION:
            raise ValueError(
                f"{cfg_filename} is of version {version}, this Detectron2 knows up to "
                f"{self.VERSION}"
            )
        if version == self.VERSION:
            self.merge_from_other_cfg(loaded)
            return
        logger.warning(
            "%s is of version %d; its keys are translated to version %d",
            cfg_filename,
            version,
            self.VERSION,
        )
        old = downgrade_config(self, to_version=version)
        old.merge_from_other_cfg(loaded)
        upgraded = upgrade_config(old)
        self.clear()
        self.update(upgraded)


def _load_with_bases(
    node_type: type[CfgNode], filename: str, importers: tuple[str, ...]
) -> dict[str, Any]:
    if filename in importers:
        raise ValueError(f"{BASE_KEY} in a circle: {' -> '.join([*importers, filename])}")
    with node_type._open_cfg(filename) as file:
        content = load_yaml(file.read(), filename)
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ValueError(f"{filename}: expected keys with values, got a {type(content).__name__}")
    bases = content.pop(BASE_KEY, [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        path = _base_path(base, filename)
        _overlay(merged, _load_with_bases(node_type, path, (*importers, filename)), path)
    _overlay(merged, content, filename)
    return merged


def _base_path(base: str, filename: str) -> str:
    if base.startswith("~"):
        return posixpath.expanduser(base)
    if base.startswith("/") or "://" in base:
        return base
    return posixpath.join(posixpath.dirname(filename), base)


def _overlay(below: dict[str, Any], above: Mapping[str, Any], filename: str) -> None:
    """Write ``above`` over ``below``, in place, mapping into mapping.

    Raises:
        ValueError: a mapping stands where ``below`` has a plain value.
    """
    for key, value in above.items():
        if not isinstance(value, dict) or key not in below:
            below[key] = value
        elif isinstance(below[key], dict):
            _overlay(below[key], value, filename)
        else:
            raise ValueError(
                f"{filename}: {key} is a mapping, but {below[key]!r} in a file named by {BASE_KEY}"
            )


def get_cfg() -> CfgNode:
    """Return a copy of the default configuration."""
    from detectron2.config.defaults import _C

    return _C.clone()


global_cfg = CfgNode()


def set_global_cfg(cfg: CfgNode) -> None:
    """Let ``global_cfg`` hold what ``cfg`` holds, for experiments that reach for a key anywhere.

    Args:
        cfg: the configuration; its nodes are shared, not copied.
    """
    # In place: others imported the object.
    global_cfg.clear()
    global_cfg.update(cfg)
