# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of which every process writes its own part, in the format of PyTorch (DCP).

Such a checkpoint is a file ``model_XXXXXXX.pth`` as any other, in which places stand for sharded
tensors, and a folder ``model_XXXXXXX.dcp`` beside it with the tensors. Nothing is gathered, and no
process holds more than its share. It is read by any number of processes, sharded or not.

Source: `torch.distributed.checkpoint`.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from detectron2.utils import comm
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.tensor import DTensor

from vitdet_d2.engine.checkpoint_store import CheckpointWriteError
from vitdet_d2.engine.manifest import SHARDS_SUFFIX, sha256_of
from vitdet_d2.engine.sharded_tensors import local
from vitdet_d2.errors import WeightsError

logger = logging.getLogger(__name__)

PLACE = "sharded:"
# What the index of such a folder consists of; it is a pickle, of which nothing else is accepted.
_INDEX_MODULES = (
    "torch.distributed.checkpoint.metadata",
    "torch.distributed.checkpoint.filesystem",
)
_INDEX_NAMES = {
    *("Metadata", "TensorStorageMetadata", "ChunkStorageMetadata", "TensorProperties"),
    *("MetadataIndex", "StorageMeta", "_StorageInfo", "_MEM_FORMAT_ENCODING"),
}
_INDEX_OTHERS = {
    *(("torch", "Size"), ("torch.serialization", "_get_layout")),
    *(("pathlib", "PosixPath"), ("pathlib._local", "PosixPath")),
}


def take_out(state: Any, path: str = "") -> tuple[Any, dict[str, Tensor]]:
    """Split a state into what any process can write, and its sharded tensors.

    Args:
        state: nested mappings, lists and tuples.
        path: of the state in a larger one.

    Returns:
        The state with places for tensors, and the tensors by place.
    """
    if isinstance(state, DTensor):
        return f"{PLACE}{path}", {path: state.detach()}
    found: dict[str, Tensor] = {}
    if isinstance(state, Mapping):
        light = {}
        for key, item in state.items():
            light[key], inside = take_out(item, f"{path}/{key}" if path else str(key))
            found.update(inside)
        return light, found
    if isinstance(state, (list, tuple)):
        parts = [take_out(item, f"{path}/{i}") for i, item in enumerate(state)]
        for _, inside in parts:
            found.update(inside)
        return type(state)(light for light, _ in parts), found
    return state, found


def put_back(state: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return a state with tensors in their places.

    Args:
        state: of `take_out`.
        tensors: by place.
    """
    if isinstance(state, str) and state.startswith(PLACE):
        return tensors[state.removeprefix(PLACE)]
    if isinstance(state, Mapping):
        return {key: put_back(item, tensors) for key, item in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(put_back(item, tensors) for item in state)
    return state


def places(state: Any) -> list[str]:
    """List the places in a state, in order.

    Args:
        state: of `take_out`.
    """
    if isinstance(state, str):
        return [state.removeprefix(PLACE)] if state.startswith(PLACE) else []
    items = state.values() if isinstance(state, Mapping) else state
    return [p for item in items for p in places(item)] if _has_items(state) else []


def _has_items(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple))


def write_shards(folder: Path, iteration: int, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write sharded tensors; a collective.

    Args:
        folder: the run folder.
        iteration: the one just completed.
        tensors: by place.

    Returns:
        Entries of the checkpoint's manifest: bytes and sha256 of every file.

    Raises:
        CheckpointWriteError: on every process, where one holds NaN or Inf or could not write.
    """
    target = folder / f"model_{iteration:07d}{SHARDS_SUFFIX}"
    temporary = target.with_name(f"{target.name}.tmp-shards")
    _refuse_non_finite(tensors, iteration)
    failure = ""
    try:
        if comm.is_main_process():
            shutil.rmtree(temporary, ignore_errors=True)
        comm.synchronize()
        dcp.save(dict(tensors), storage_writer=FileSystemWriter(temporary))
        own = _described(temporary)
    except (Exception, CheckpointException) as error:  # the latter: of another process
        failure, own = _reason(error), {}
    outcomes = comm.all_gather((failure, own))
    failures = [text for text, _ in outcomes if text]
    if not failures and comm.is_main_process():
        try:
            shutil.rmtree(target, ignore_errors=True)
            os.replace(temporary, target)
        except OSError as error:
            failures = [str(error)]
    failures = comm.all_gather(failures)[0] or failures
    if failures:
        raise CheckpointWriteError(
            f"{target}: not written: {failures[0]}; older ones are untouched"
        )
    return {"shards": {name: entry for _, files in outcomes for name, entry in files.items()}}


def _described(folder: Path) -> dict[str, list[Any]]:
    """Size and hash of the files that this process wrote; the main one also takes the index."""
    prefix = f"__{comm.get_rank()}_"
    mine = [path for path in sorted(folder.iterdir()) if path.name.startswith(prefix)]
    if comm.is_main_process():
        mine.append(folder / ".metadata")
    return {path.name: [path.stat().st_size, sha256_of(path)] for path in mine}


def _refuse_non_finite(tensors: Mapping[str, Tensor], iteration: int) -> None:
    own = [local(t) for name, t in tensors.items() if name.startswith("model/")]
    is_finite = all(bool(torch.isfinite(t).all()) for t in own if t.is_floating_point())
    if not all(comm.all_gather(is_finite)):
        raise CheckpointWriteError(
            f"iteration {iteration}: refused to save a model with NaN or Inf; older checkpoints "
            "are untouched; lower the learning rate and use --resume"
        )


def read_shards(
    checkpoint: Path, state: Mapping[str, Any], like: Callable[[str], Tensor]
) -> dict[str, Any]:
    """Fill the places of a state that was read from a file; a collective.

    Args:
        checkpoint: the file.
        state: its content; without places it is returned as it is.
        like: gives a tensor of the shape, and sharded as, the one that a place wants.

    Raises:
        WeightsError: the folder beside it does not fit.
    """
    wanted = places(state)
    if not wanted:
        return dict(state)
    folder = checkpoint.with_suffix(SHARDS_SUFFIX)
    tensors = {place: torch.empty_like(like(place)).detach() for place in wanted}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            dcp.load(
                tensors,
                storage_reader=_TensorReader(folder),
                no_dist=not torch.distributed.is_initialized(),
            )
    except (Exception, CheckpointException) as error:  # the latter where processes read together
        raise WeightsError(
            f"{folder}: cannot be read, or does not fit this recipe: {_reason(error)}"
        ) from error
    return put_back(state, tensors)


def _reason(error: BaseException) -> str:
    """What happened, in one line; of several processes, the first one's."""
    failures = error.failures if isinstance(error, CheckpointException) else {}
    first = next((cause for cause, _ in failures.values()), error)
    return " ".join(f"{type(first).__name__}: {first}".split())[:400]


class _Index(pickle.Unpickler):
    """Reads the index of a folder, and makes nothing but what one consists of."""

    def find_class(self, module: str, name: str) -> Any:
        known = module in _INDEX_MODULES and name in _INDEX_NAMES
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if known or is_dtype or (module, name) in _INDEX_OTHERS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"the index asks for the Python object `{module}.{name}`")


class _TensorReader(FileSystemReader):
    """Reads tensors alone: other values would be unpickled without any check."""

    def read_metadata(self, *args: Any, **options: Any) -> Metadata:  # noqa: ARG002
        """Read the index of the folder.

        Args:
            args: of torch's protocol.
            options: likewise.

        Raises:
            WeightsError: it holds anything but tensors.
        """
        with open(Path(self.path) / ".metadata", "rb") as file:
            index = _Index(file).load()
        values = index.state_dict_metadata.values() if isinstance(index, Metadata) else [None]
        if not all(isinstance(value, TensorStorageMetadata) for value in values):
            raise WeightsError(f"{self.path}: the index names something else than tensors")
        return index
