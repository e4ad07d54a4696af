# SPDX-License-Identifier: Apache-2.0
"""``vitdet env``: what a bug report and a puzzled user need, on one screen."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from collections.abc import Sequence
from typing import Any

import torch

import vitdet_d2
from vitdet_d2 import runtime
from vitdet_d2.engine.arguments import OneLineParser

_PACKAGES = (
    "torch", "torchvision", "numpy", "timm", "fvcore", "iopath", "omegaconf", "pycocotools",
    "safetensors", "pillow", "tensorboard",
)  # fmt: skip
# Reading checkpoints from outside is safe from here on (CVE-2025-32434, CVE-2026-24747).
_MINIMUM_TORCH = (2, 10)


def describe() -> dict[str, Any]:
    """Return versions, devices, the Detectron2 in use, and hints about what does not fit."""
    used = runtime.current()
    return {
        "vitdet_d2": vitdet_d2.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "detectron2": {"runtime": used.name, "version": used.version, "path": str(used.path)},
        "packages": {package: _version(package) for package in _PACKAGES},
        "cuda": torch.version.cuda,
        "gpus": _gpus(),
        "hints": _hints(used),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus() -> list[str]:
    if not torch.cuda.is_available():
        return []
    count = torch.cuda.device_count()
    properties = [torch.cuda.get_device_properties(index) for index in range(count)]
    return [f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in properties]


def _hints(used: runtime.Runtime) -> list[str]:
    hints = [f"{package} is not installed: pip install {package}" for package in _missing()]
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < _MINIMUM_TORCH:
        hints.append(f"torch {torch.__version__} is below 2.10: pip install --upgrade torch")
    hints += _torchvision_hints()
    return hints + used.hints()


def _missing() -> list[str]:
    return [package for package in _PACKAGES if _version(package) is None]


def _torchvision_hints() -> list[str]:
    try:
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        return [
            f"torchvision {_version('torchvision')} does not fit torch {torch.__version__} "
            f"({reason}): pip install --upgrade torch torchvision"
        ]
    return []


def _as_text(description: dict[str, Any]) -> str:
    used = description["detectron2"]
    rows = [
        ("vitdet_d2", description["vitdet_d2"]),
        ("detectron2", f"{used['runtime']} {used['version']} {used['path']}"),
        ("python", f"{description['python']} {sys.executable}"),
        ("platform", description["platform"]),
        *((name, version or "not installed") for name, version in description["packages"].items()),
        ("cuda", description["cuda"] or "none (a CPU build of torch)"),
        *((f"gpu {i}", gpu) for i, gpu in enumerate(description["gpus"])),
    ]
    if not description["gpus"]:
        rows.append(("gpu", "none"))
    rows += [("hint", hint) for hint in description["hints"]]
    return "\n".join(f"{name}: {value}" for name, value in rows)


def main(argv: Sequence[str], prog: str = "vitdet env") -> None:
    """Print the environment.

    Args:
        argv: arguments of ``vitdet env``.
        prog: shown in messages.
    """
    parser = OneLineParser(
        prog=prog, description="Show versions, devices, and the Detectron2 in use."
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    description = describe()
    as_json = parser.parse_args(list(argv)).json
    print(json.dumps(description, indent=1) if as_json else _as_text(description))
