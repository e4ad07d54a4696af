# SPDX-License-Identifier: Apache-2.0
"""Reading a weights file of any format by what it holds, not by its name.

Formats: safetensors; torch's zip archive, TorchScript, and torch's format of before 1.6; numpy's
``.npz``; pickles of numpy arrays (Detectron2's model zoo). Nothing in a file is run, and every
failure is a ``WeightsError`` that says what the file is instead. torch is imported only where
tensors are made.
"""

from __future__ import annotations

import os
from typing import Any

from vitdet_d2.checks.file_kind import Format, sniff
from vitdet_d2.checks.safe_pickle import load_pickle
from vitdet_d2.errors import WeightsError

__all__ = ["Format", "read_weights_file", "sniff"]

# Below it torch itself has holes that a file can use (CVE-2025-32434, CVE-2026-24747): nothing from
# outside should be given to it.
_SAFE_TORCH = (2, 10)


def read_weights_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a weights file without running anything in it.

    Args:
        path: a local file in one of the formats above.

    Returns:
        What the file holds: built-in containers, numbers, texts, CPU tensors and numpy arrays. The
        notes in a ``.safetensors`` file are under ``__metadata__``.

    Raises:
        WeightsError: the file is missing, damaged, unsafe or no weights file, or holds no
            dictionary.
    """
    content = _read(path, sniff(path))
    if not isinstance(content, dict):
        raise WeightsError(
            f"{path}: expected a dictionary of tensors, got {type(content).__name__}; save the "
            "model's state_dict()"
        )
    return content


def _read(path: str | os.PathLike[str], kind: Format) -> Any:
    if kind == "pickle":
        return load_pickle(path)
    if kind == "npz":
        from vitdet_d2.checks.npz_file import read_npz

        return read_npz(path)
    if kind == "safetensors":
        from vitdet_d2.checks.safetensors_file import read_safetensors

        return read_safetensors(path)
    _check_torch(path)
    from vitdet_d2.checks.torch_file import read_archive, read_legacy

    return read_archive(path) if kind == "torch_zip" else read_legacy(path)


def _check_torch(path: str | os.PathLike[str]) -> None:
    import torch

    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < _SAFE_TORCH:
        raise WeightsError(
            f"{path}: torch {torch.__version__} cannot read .pth files safely (CVE-2026-24747); "
            "upgrade to torch >= 2.10, or convert the file to .safetensors"
        )
