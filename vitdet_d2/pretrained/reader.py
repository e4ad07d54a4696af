# SPDX-License-Identifier: Apache-2.0
"""Weights by path or address, as CPU tensors, without running anything in the file.

Formats: .safetensors, .pth of any age, .pkl of Detectron2's model zoo; recognised by content.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import numpy as np
import torch
from detectron2.utils.file_io import PathManager

from vitdet_d2.checks.weights_file import read_weights_file
from vitdet_d2.errors import WeightsError


def read_weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a weights file.

    Args:
        path: a local file, a web address or ``detectron2://NAME``; addresses are kept in iopath's
            cache. ``?matching_heuristics=True`` at the end is accepted, and ignored.

    Returns:
        What the file holds; numpy arrays are tensors.

    Raises:
        WeightsError: the file cannot be had, is damaged or unsafe, or holds no weights.
    """
    address = strip_query(os.fspath(path))
    local = _local_path(address)
    try:
        content = read_weights_file(local)
    except WeightsError as error:
        if local == address:
            raise
        raise WeightsError(f"{address}: {error}; delete the downloaded copy first") from None
    tensors = _to_tensors(content)
    assert isinstance(tensors, dict), "a dictionary stays one"
    return tensors


def strip_query(address: str) -> str:
    """Remove ``matching_heuristics=...`` from an address; other parts of its query stay."""
    if "matching_heuristics=" not in address:
        return address
    parts = urlsplit(address)
    query = [pair for pair in parse_qsl(parts.query) if pair[0] != "matching_heuristics"]
    return urlunsplit(parts._replace(query=urlencode(query)))


def _local_path(address: str) -> str:
    if "://" not in address:
        return address
    try:
        return str(PathManager.get_local_path(address))
    # iopath passes on whatever the network raises: URLError, HTTPError, timeouts, lock failures.
    except Exception as error:
        raise WeightsError(
            f"{address} could not be downloaded ({type(error).__name__}: {error}); fetch it by "
            "other means, and give the path of the local file"
        ) from None


def _to_tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, dict):
        return {key: _to_tensors(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_tensors(item) for item in value)
    return value
