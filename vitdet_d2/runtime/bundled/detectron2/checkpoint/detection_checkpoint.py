# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a detector: fvcore's, with safe reading and saving that cannot lose the last one.

Source: the behaviour of detectron2 ``checkpoint/detection_checkpoint.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import IO, Any
from urllib.parse import parse_qs, urlparse

import torch
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from vitdet_d2.checks.weights_file import read_weights_file
from vitdet_d2.errors import WeightsError

# Rebuilt from the recipe in any case; files from before they were buffers lack or add them.
_REBUILT = ("pixel_mean", "pixel_std")
_OBSOLETE = "anchor_generator.cell_anchors"


class DetectionCheckpointer(Checkpointer):
    """fvcore's ``Checkpointer`` that reads every format of the model zoos without running a file.

    ``PATH?matching_heuristics=True`` fits a bare backbone's names to the model's.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ) -> None:
        """Remember what to save and load.

        Args:
            model: a module, or one wrapped for distributed training.
            save_dir: where checkpoints are written and looked for.
            save_to_disk: whether this process writes; by default the main process does.
            checkpointables: more objects with ``state_dict()``, by their key in the file.
        """
        writes = comm.is_main_process() if save_to_disk is None else save_to_disk
        super().__init__(model, save_dir, save_to_disk=writes, **checkpointables)
        self.path_manager = PathManager
        self._match_names = False

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a checkpoint.

        Args:
            path: a file, or an address that ``PathManager`` knows; empty loads nothing.
            checkpointables: keys to load beside the model; ``None``, all that the file has.

        Returns:
            What else is in the file.

        Raises:
            ValueError: an unknown query after the path.
            WeightsError: the file is missing, damaged or unsafe.
        """
        if not path:
            return super().load(path, checkpointables)
        address, self._match_names = _split_query(path)
        local = self.path_manager.get_local_path(address)
        if not os.path.isfile(local):
            raise WeightsError(f"{path}: no such file; give the path of a checkpoint")
        try:
            return super().load(local, checkpointables)
        finally:
            self._match_names = False

    def _load_file(self, filename: str) -> dict[str, Any]:
        data = read_weights_file(filename)
        data.pop("__metadata__", None)
        if "model" not in data:
            if any(name == "blobs" or name.endswith("_w") for name in data):
                raise WeightsError(
                    f"{filename}: Caffe2 (Detectron 1) weights are not supported by the bundled "
                    "runtime; convert them with an installed Detectron2"
                )
            data = {"model": data}
        if self._match_names:
            data["matching_heuristics"] = True
        return data

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if checkpoint.get("matching_heuristics", False):
            self._convert_ndarray_to_tensor(checkpoint["model"])
            checkpoint["model"] = align_and_update_state_dicts(
                self.model.state_dict(), checkpoint["model"], c2_conversion=False
            )
        incompatible = super()._load_model(checkpoint)
        # The caller holds these lists, so they are changed in place.
        incompatible.missing_keys[:] = [k for k in incompatible.missing_keys if k not in _REBUILT]
        incompatible.unexpected_keys[:] = [
            k for k in incompatible.unexpected_keys if _OBSOLETE not in k
        ]
        return incompatible

    def has_checkpoint(self) -> bool:
        """Return whether there is a last checkpoint, and not only a note about one."""
        if not super().has_checkpoint():
            return False
        path = self.get_checkpoint_file()
        exists = bool(self.path_manager.isfile(path))
        if not exists:
            self.logger.warning("last_checkpoint names %s, which does not exist", path)
        return exists

    def save(self, name: str, **kwargs: Any) -> None:
        """Write a checkpoint; whatever happens meanwhile, earlier ones stay as they are.

        Args:
            name: file name without ``.pth``.
            kwargs: more plain data for the file.

        Raises:
            ValueError: ``name`` is a path.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        filename = f"{name}.pth"
        if os.path.basename(filename) != filename:
            raise ValueError(f"name: expected a file name without folders, got {name!r}")
        state = {key: item.state_dict() for key, item in self.checkpointables.items()}
        data = {"model": self.model.state_dict(), **state, **kwargs}
        path = os.path.join(self.save_dir, filename)
        self.logger.info("Saving checkpoint to %s", path)
        _write_whole(path, lambda stream: torch.save(data, stream))
        self.tag_last_checkpoint(filename)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note which checkpoint is the newest.

        Args:
            last_filename_basename: its file name.
        """
        path = os.path.join(self.save_dir, "last_checkpoint")
        _write_whole(path, lambda stream: stream.write(last_filename_basename.encode()))


def _split_query(path: str) -> tuple[str, bool]:
    """Separate ``?matching_heuristics=True`` from a path or address.

    Raises:
        ValueError: there is another query.
    """
    parsed = urlparse(path)
    query = parse_qs(parsed.query)
    match = query.pop("matching_heuristics", ["False"]) == ["True"]
    if query:
        raise ValueError(
            f"{path}: unknown query {sorted(query)}; expected matching_heuristics=True"
        )
    return parsed._replace(query="").geturl(), match


def _write_whole(path: str, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file that is there in full, on the disk, or not at all.

    Raises:
        OSError: it could not be written; no part of it is left.
    """
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    temporary = f"{path}.tmp-{os.getpid()}"
    try:
        with open(temporary, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if os.path.exists(temporary):
            os.remove(temporary)
        # torch reports a full disk as a RuntimeError about stream positions.
        if isinstance(error, (RuntimeError, OSError)):
            raise OSError(
                f"{path} could not be written ({str(error).splitlines()[0]}); is the disk full? "
                "Earlier checkpoints are untouched"
            ) from error
        raise
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    """Make the new name itself durable, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
