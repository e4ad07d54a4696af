# SPDX-License-Identifier: Apache-2.0
"""Find the bundled recipe parts.

Source: detectron2 ``model_zoo/model_zoo.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig

__all__ = ["get_config", "get_config_file"]

_CONFIGS = Path(__file__).resolve().parent / "configs"


def get_config_file(config_path: str) -> str:
    """Return the path of a bundled recipe part.

    Args:
        config_path: relative to Detectron2's ``configs`` folder, such as ``common/train.py``.

    Raises:
        RuntimeError: it is not bundled.
    """
    file = (_CONFIGS / config_path).resolve()
    if _CONFIGS not in file.parents or not file.is_file():
        known = sorted(path.relative_to(_CONFIGS).as_posix() for path in _CONFIGS.rglob("*.py"))
        raise RuntimeError(
            f"{config_path} is not in the model zoo that vitdet_d2 bundles, which has "
            f"{', '.join(known)}; an installed Detectron2 has the rest"
        )
    return str(file)


def get_config(config_path: str, trained: bool = False) -> Any:
    """Return a bundled recipe part as a configuration.

    Args:
        config_path: as in ``get_config_file``.
        trained: must be False: these parts have no weights.

    Raises:
        RuntimeError: it is not bundled, or weights are asked for.
    """
    file = get_config_file(config_path)
    if trained:
        raise RuntimeError(f"there are no trained weights for {config_path}; pass trained=False")
    return LazyConfig.load(file)
