# SPDX-License-Identifier: Apache-2.0
"""The versions that a bug report needs.

Source: detectron2 ``utils/collect_env.py``.
"""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path

import torch
from tabulate import tabulate

__all__ = ["collect_env_info"]

_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "fvcore",
    "iopath",
    "omegaconf",
    "pycocotools",
    "pillow",
)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> list[tuple[str, str]]:
    if not torch.cuda.is_available():
        return [("GPU", "none")]
    return [
        (f"GPU {index}", torch.cuda.get_device_name(index))
        for index in range(torch.cuda.device_count())
    ]


def collect_env_info() -> str:
    """Return a table of platform, package versions and devices."""
    import detectron2

    rows = [
        ("platform", platform.platform()),
        ("python", sys.version.replace("\n", " ")),
        ("detectron2", f"{detectron2.__version__} {Path(detectron2.__file__).parent}"),
        *((package, _version(package)) for package in _PACKAGES),
        ("CUDA of torch", torch.version.cuda or "none"),
        *_devices(),
    ]
    return tabulate(rows)
