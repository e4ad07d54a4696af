# SPDX-License-Identifier: Apache-2.0
"""Find the part that a yacs key names."""

from __future__ import annotations

from typing import Any

from detectron2.utils.registry import Registry

from vitdet_d2.runtime.absent import INSTALL_COMMAND


def part_by_name(registry: Registry, name: str, key: str) -> Any:
    """Return what is registered under a name.

    Args:
        registry: of parts of one kind.
        name: the value of the key.
        key: the yacs key, for the message.

    Raises:
        KeyError: nothing has this name.
    """
    if name in registry:
        return registry.get(name)
    known = ", ".join(sorted(known for known, _ in registry)) or "nothing"
    raise KeyError(
        f"{key}: no {name!r} here; there is {known}. A part of another project is registered by "
        "importing it first (plain ViTs: import vitdet_d2.backbones); a part of Detectron2 that "
        f"vitdet_d2 does not bundle comes with Detectron2 itself: `{INSTALL_COMMAND}`"
    )
