# SPDX-License-Identifier: Apache-2.0
"""Weights by path or address, as CPU tensors, without running anything in the file.

Formats: .safetensors, .pth of any age, .pkl of Detectron2's model zoo; recognised by content.
"""

from __future__ import annotations

import difflib
import os
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import numpy as np
import torch
from detectron2.utils.file_io import PathManager

from vitdet_d2.checks.weights_file import read_weights_file, sniff
from vitdet_d2.errors import WeightsError
from vitdet_d2.zoo.addresses import canonical, redact
from vitdet_d2.zoo.cached_file import fetch
from vitdet_d2.zoo.catalogue import RELEASED, Released, lookup, require_backbone


def read_weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a weights file.

    Args:
        path: a local file, a web address, ``detectron2://NAME``, or the name of a released
            checkpoint; what comes from the web is verified, and kept in our cache. A local file
            goes before a name. ``?matching_heuristics=True`` at the end is accepted, and ignored.

    Returns:
        What the file holds; numpy arrays are tensors.

    Raises:
        DownloadError: the file cannot be downloaded now.
        WeightsError: the file cannot be had, is damaged or unsafe, or holds no weights.
    """
    address = strip_query(os.fspath(path))
    local = local_weights(address)
    try:
        content = read_weights_file(local)
    except WeightsError as error:
        if local == address:
            raise WeightsError(f"{error}{_name_advice(local)}") from None
        raise WeightsError(f"{redact(address)}: {error}") from None
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


def local_weights(address: str) -> str:
    """Return the local file of weights, downloaded and verified where they are elsewhere.

    Args:
        address: as of ``read_weights``, without a query for name matching.

    Raises:
        RecipeError: it is a released checkpoint whose backbone is not here.
        DownloadError: the file cannot be downloaded now.
        WeightsError: the server refuses, or gives another file.
    """
    if "://" not in address:
        released = _released(address)
        return address if released is None else str(fetch(released.address).path)
    if canonical(address) is not None:
        return str(fetch(address).path)
    # Handlers that other code has registered, for storage of its own.
    try:
        return str(PathManager.get_local_path(address))
    except Exception as error:
        raise WeightsError(
            f"{redact(address)} could not be had ({type(error).__name__}: {error}); fetch it by "
            "other means, and give the path of the local file"
        ) from None


def require_weights(path: str | os.PathLike[str], *, download: bool) -> None:
    """Make sure that weights can be had, so that a mistake is told before it costs anything.

    Args:
        path: as of ``read_weights``.
        download: whether what is on the web is downloaded; if not, it is left out of the check.

    Raises:
        RecipeError: it is a released checkpoint whose backbone is not here.
        DownloadError: the file cannot be downloaded now.
        WeightsError: there is no such file, or it is none of weights.
    """
    address = strip_query(os.fspath(path))
    if not download and ("://" in address or _released(address) is not None):
        return
    local = local_weights(address)
    try:
        sniff(local)
    except WeightsError as error:
        raise WeightsError(f"{error}{_name_advice(local)}") from None


def _released(name: str) -> Released | None:
    """Return the released checkpoint of this name; a local file goes before it.

    Raises:
        RecipeError: its backbone is not here, so that no model takes it.
    """
    released = None if os.path.exists(name) else lookup(name)
    if released is not None:
        require_backbone(released)
    return released


def _name_advice(path: str) -> str:
    """Return which names of released checkpoints are near something that is no file."""
    near = difflib.get_close_matches(path, [entry.name for entry in RELEASED], n=2)
    if not near or os.path.exists(path):
        return ""
    return f", or a name of the model zoo (did you mean {' or '.join(near)}?)"


def _to_tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, dict):
        return {key: _to_tensors(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_tensors(item) for item in value)
    return value
