# SPDX-License-Identifier: Apache-2.0
"""Files as Detectron2 releases them: a pickle of numpy arrays by name, and who wrote it."""

from __future__ import annotations

import copyreg
import gzip
import json
import pickle
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

AUTHOR = "Detectron2 Model Zoo"


@cache
def golden_states() -> dict[str, dict[str, tuple[tuple[int, ...], str]]]:
    """Return shape and type of every tensor of the 22 released models of Detectron2."""
    packed = Path(__file__).with_name("golden_state.json.gz").read_bytes()
    states = json.loads(gzip.decompress(packed))["states"]
    return {
        model: {name: (tuple(shape), dtype) for name, (*shape, dtype) in state.items()}
        for model, state in states.items()
    }


class _SharingPickler(pickle.Pickler):
    """Writes the bytes of equally large arrays once; whoever reads the file cannot tell."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._shared: dict[bytes, bytes] = {}

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, np.ndarray):
            return NotImplemented
        make, arguments, state = obj.__reduce__()
        data = self._shared.setdefault(state[-1], state[-1])
        return make, arguments, (*state[:-1], data)


def write_released(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Write a file with the layout of a released one.

    Args:
        path: its ending should be ``.pkl``, which an installed Detectron2 goes by.
        state: arrays by name.
    """
    assert copyreg.dispatch_table.get(np.ndarray) is None, "numpy's own reduction is meant"
    with path.open("wb") as file:
        _SharingPickler(file, protocol=4).dump({"model": dict(state), "__author__": AUTHOR})


def write_empty(path: Path, model: str) -> None:
    """Write a file with names, shapes and types of a released one, and zeros."""
    zeros = {
        name: np.zeros(shape, dtype) for name, (shape, dtype) in golden_states()[model].items()
    }
    write_released(path, zeros)
