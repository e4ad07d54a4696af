# SPDX-License-Identifier: Apache-2.0
"""Weights by path or address, as CPU tensors, without running anything in the file.

Formats: .safetensors, .pth (.pt, .bin, .pth.tar) of any age, TorchScript, .npz, .pkl of
Detectron2's model zoo; recognised by content.
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
from vitdet_d2.zoo.catalogue import RELEASED, lookup
from vitdet_d2.zoo.initialisations import (
    RANDOM,
    initialisation,
    near_names,
    require_address,
    starts_at_random,
)


def read_weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a weights file.

    Args:
        path: a local file, a web address, ``detectron2://NAME``, or the name of a released
            checkpoint or of an initialisation; what comes from the web is verified, and kept in
            our cache. A local file goes before a name. ``?matching_heuristics=True`` at the end is
            accepted, and ignored.

    Returns:
        What the file holds; numpy arrays are tensors. What the writer of a .safetensors file noted
        is a dictionary of texts under ``__metadata__``.

    Raises:
        DownloadError: the file cannot be downloaded now.
        WeightsError: the file cannot be had, is damaged or unsafe, or holds no weights; or the name
            stands for none.
    """
    address = strip_query(os.fspath(path))
    local = local_weights(address)
    try:
        content = read_weights_file(local)
    except WeightsError as error:
        if local == address:
            raise WeightsError(f"{error}{_name_advice(local)}") from None
        raise WeightsError(f"{redact(address)}: {error}") from None
    try:
        tensors = _to_tensors(content, {})
    except RecursionError:
        raise WeightsError(
            f"{redact(address)}: refused: the data is nested too deeply to be a checkpoint; check "
            "where it is from"
        ) from None
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
        WeightsError: the server refuses, or gives another file; or the name has no address.
    """
    if "://" not in address:
        named = _named_address(address)
        return address if named is None else str(fetch(named).path)
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
    if not download and ("://" in address or _named_address(address) is not None):
        return
    local = local_weights(address)
    try:
        sniff(local)
    except WeightsError as error:
        raise WeightsError(f"{error}{_name_advice(local)}") from None


def _named_address(name: str) -> str | None:
    """Return where what has this name was released; None: it is no name, but a path.

    Raises:
        WeightsError: the name stands for no weights, or for some that have no address.
    """
    if os.path.exists(name):
        return None
    if starts_at_random(name):
        raise WeightsError(f"{name or 'an empty name'!r} stands for no weights; nothing to read")
    released = lookup(name)
    if released is not None:
        return released.address
    row = initialisation(name)
    return None if row is None else require_address(row)


def _name_advice(path: str) -> str:
    """Return which names of released weights are near something that is no file."""
    near = difflib.get_close_matches(path, [entry.name for entry in RELEASED], n=2)
    near += [name for name in near_names(path) if name != RANDOM][:2]
    if not near or os.path.exists(path):
        return ""
    return f", or a name of the model zoo (did you mean {' or '.join(near)}?)"


def _to_tensors(value: Any, done: dict[int, Any]) -> Any:
    """Return the same nest with tensors in place of arrays, in the memory of those."""
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, np.ndarray):
        done[id(value)] = torch.from_numpy(value)
    elif isinstance(value, dict):
        table = done[id(value)] = {}
        table.update((key, _to_tensors(item, done)) for key, item in value.items())
    elif isinstance(value, list):
        items = done[id(value)] = []
        items.extend(_to_tensors(item, done) for item in value)
    elif isinstance(value, tuple):
        done[id(value)] = tuple(_to_tensors(item, done) for item in value)
    else:
        return value
    return done[id(value)]
