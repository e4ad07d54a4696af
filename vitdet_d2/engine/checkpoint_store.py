# SPDX-License-Identifier: Apache-2.0
"""A folder of checkpoints that survives kills, full disks and damaged files.

Vocabulary:
    record: a checkpoint ``model_XXXXXXX.pth`` (XXXXXXX: the iteration just completed, from 0) with
        its manifest ``model_XXXXXXX.json`` (bytes, sha256, iteration, and what the caller adds).
    verified: size and sha256 of the file equal those of its manifest.
    final: ``model_final.pth``, where Detectron2 users look: the last checkpoint's second name.
    weights: a file that holds no training state, such as ``model_best.pth``, with a manifest too.

The order of writing is checkpoint, manifest, ``last_checkpoint``, each by `atomic_write`: a kill at
any moment leaves every earlier record untouched. Reading never trusts ``last_checkpoint``.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from vitdet_d2.atomic_write import atomic_write, leftovers, sync_folder
from vitdet_d2.engine.manifest import (
    FINAL,
    SHARDS_SUFFIX,
    Record,
    is_checkpoint,
    read_manifest,
    reject,
)
from vitdet_d2.errors import UserError, WeightsError

logger = logging.getLogger(__name__)

POINTER = "last_checkpoint"
BEST = "model_best.pth"
AVERAGE_FINAL = "model_ema_final.pth"
# Below two, one damaged file would end the run's history.
MIN_VERIFIED = 2
# Room for what the file system itself needs, and for a state that still grows (optimizer moments).
FREE_SPACE_FACTOR = 1.2
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class CheckpointWriteError(UserError):
    """A checkpoint that could not be written; older ones are untouched."""


class CheckpointStore:
    """Writes, verifies, finds and prunes the checkpoints of one run; used by rank 0 alone."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        max_to_keep: int | None = None,
        retry_seconds: Sequence[float] = (1.0, 5.0, 20.0),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Remember the folder; nothing is read or written yet.

        Args:
            folder: the run folder, which exists when something is saved.
            max_to_keep: how many numbered checkpoints stay (None: all), never fewer than two.
            retry_seconds: pauses before each new attempt at a failed write.
            sleep: waits; replaced in tests.

        Raises:
            ValueError: `max_to_keep` is below 1.
        """
        if max_to_keep is not None and max_to_keep < 1:
            raise ValueError(f"max_to_keep: expected at least 1 or None, got {max_to_keep}")
        self.folder = Path(folder)
        self.max_to_keep = max_to_keep
        self._retry_seconds = tuple(retry_seconds)
        self._sleep = sleep
        self._verified: dict[str, str] = {}
        self._last_bytes = 0

    # ---------------------------------------------------------------- writing

    def save(self, state: Mapping[str, Any], *, iteration: int, meta: Mapping[str, Any]) -> Path:
        """Write a checkpoint with its manifest and the pointer, then delete what is too old.

        Args:
            state: plain types and tensors; ``state["model"]`` maps names to tensors, or to where
                they are (`vitdet_d2.engine.sharded_checkpoint`).
            iteration: the iteration just completed, from 0.
            meta: further plain entries of the manifest.

        Returns:
            The checkpoint's path.

        Raises:
            CheckpointWriteError: the model holds NaN or Inf, or the file system refused after all
                attempts; older checkpoints are as they were.
        """
        path = self.folder / f"model_{iteration:07d}.pth"
        self._write(path, state, iteration, meta)
        self._last_bytes = path.stat().st_size
        if "shards" not in meta:
            shutil.rmtree(path.with_suffix(SHARDS_SUFFIX), ignore_errors=True)
        self.prune()
        return path

    def save_weights(
        self, name: str, state: Mapping[str, Any], *, iteration: int, meta: Mapping[str, Any]
    ) -> Path:
        """Write weights that stand beside the checkpoints: never resumed from, never pruned.

        Args:
            name: of the file, ``model_....pth``, not that of a checkpoint; replaced if it is there.
            state: as for `save`.
            iteration: as for `save`.
            meta: as for `save`.

        Returns:
            The file's path.

        Raises:
            CheckpointWriteError: as `save`.
        """
        path = self.folder / name
        self._write(path, state, iteration, meta)
        return path

    def weights_record(self, name: str) -> Record | str | None:
        """What `save_weights` wrote under a name.

        Args:
            name: of the file.

        Returns:
            Its record; why it cannot be used; None where there is no such file.
        """
        path = self.folder / name
        if not path.exists() and not path.with_suffix(".json").exists():
            return None
        record = read_manifest(path.with_suffix(".json"))
        return record if isinstance(record, str) else reject(record) or record

    def save_final(self, path: Path) -> Path:
        """Give a saved checkpoint the name ``model_final.pth``, manifest and pointer included.

        Args:
            path: what `save` returned.

        Raises:
            CheckpointWriteError: `path` has no manifest, or the file system refused.
        """
        record = read_manifest(path.with_suffix(".json"))
        if isinstance(record, str):
            raise CheckpointWriteError(f"{path}: no final copy without a manifest: {record}")
        final = self.folder / FINAL
        temporary = final.with_name(f"{FINAL}.tmp-{os.getpid()}")
        try:
            temporary.unlink(missing_ok=True)
            try:
                os.link(path, temporary)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, temporary)
                with open(temporary, "rb+") as file:
                    os.fsync(file.fileno())
            os.replace(temporary, final)
            # Between two names of one file, renaming does nothing and leaves both.
            temporary.unlink(missing_ok=True)
            sync_folder(self.folder)
            self._write_json(final.with_suffix(".json"), {**record.manifest, "file": FINAL})
            self._write_pointer(FINAL)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise CheckpointWriteError(f"{final}: not written: {error}; {path} is safe") from error
        self._verified[FINAL] = record.sha256
        return final

    def is_sharded(self, path: Path) -> bool:
        """Whether the tensors of a checkpoint are in a folder beside it.

        Args:
            path: of the checkpoint.
        """
        record = read_manifest(path.with_suffix(".json"))
        return isinstance(record, Record) and "shards" in record.manifest

    def _write(
        self, path: Path, state: Mapping[str, Any], iteration: int, meta: Mapping[str, Any]
    ) -> None:
        """Write a file and its manifest, and for a checkpoint the pointer; try several times.

        Raises:
            CheckpointWriteError: no attempt succeeded, or the weights are not finite.
        """
        self._refuse_non_finite(state["model"], iteration)
        for pause in (*self._retry_seconds, None):
            try:
                self._write_once(path, state, iteration, meta)
                return
            except OSError as error:
                message = self._failure(path, state, error)
                if pause is None:
                    raise CheckpointWriteError(message) from error
                logger.warning("%s; next attempt in %g s", message, pause)
                self._sleep(pause)

    def _write_once(
        self, path: Path, state: Mapping[str, Any], iteration: int, meta: Mapping[str, Any]
    ) -> None:
        self._require_space(path, state)
        with atomic_write(path) as file:
            torch.save(dict(state), cast("IO[bytes]", file))
        manifest = {
            "schema": 1,
            "file": path.name,
            "iteration": iteration,
            "bytes": file.num_bytes,
            "sha256": file.sha256,
            **meta,
        }
        self._write_json(path.with_suffix(".json"), manifest)
        if is_checkpoint(path.with_suffix(".json")):
            self._write_pointer(path.name)
        self._verified[path.name] = file.sha256

    def _write_json(self, path: Path, content: Mapping[str, Any]) -> None:
        with atomic_write(path) as file:
            file.write((json.dumps(content, indent=1, sort_keys=True) + "\n").encode("ascii"))

    def _write_pointer(self, name: str) -> None:
        with atomic_write(self.folder / POINTER) as file:
            file.write(name.encode("ascii"))

    def _bytes_needed(self, path: Path, state: Mapping[str, Any]) -> int:
        # A checkpoint also holds what is no tensor, so that the last one's size is a better guess.
        known = self._last_bytes if is_checkpoint(path.with_suffix(".json")) else 0
        return int(FREE_SPACE_FACTOR * max(known, _tensor_bytes(state)))

    def _require_space(self, path: Path, state: Mapping[str, Any]) -> None:
        if shutil.disk_usage(self.folder).free < self._bytes_needed(path, state):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _failure(self, path: Path, state: Mapping[str, Any], error: OSError) -> str:
        if error.errno not in _NO_SPACE:
            return f"{path}: not written: {error}; older checkpoints are untouched"
        free = shutil.disk_usage(self.folder).free
        return (
            f"{path}: not written, no space ({error.strerror}): "
            f"{self._bytes_needed(path, state)} bytes needed, {free} free; older checkpoints are "
            "untouched; free some space, or choose another train.output_dir, and use --resume"
        )

    @staticmethod
    def _refuse_non_finite(model: Mapping[str, Tensor], iteration: int) -> None:
        tensors = {
            k: t
            for k, t in model.items()
            if isinstance(t, Tensor) and (t.is_floating_point() or t.is_complex())
        }
        checks = [torch.isfinite(t).all() for t in tensors.values()]
        if not checks or bool(torch.stack([c.to(checks[0].device) for c in checks]).all()):
            return
        bad = [name for name, check in zip(tensors, checks, strict=True) if not check]
        raise CheckpointWriteError(
            f"iteration {iteration}: refused to save a model with NaN or Inf in {len(bad)} tensors "
            f"({', '.join(bad[:3])}{', ...' if len(bad) > 3 else ''}); older checkpoints are "
            "untouched; lower the learning rate and use --resume"
        )

    # ---------------------------------------------------------------- reading

    def newest_verified(self) -> Path | None:
        """The newest checkpoint whose size and hash are right; says why others were rejected."""
        for manifest in self._manifests():
            record = read_manifest(manifest)
            reason = record if isinstance(record, str) else self._reject(record)
            if reason is None:
                assert isinstance(record, Record), "a manifest without a record has a reason"
                self._check_pointer(record)
                return record.path
            logger.warning("Checkpoint of %s rejected: %s", manifest, reason)
        return None

    def load(self, path: Path) -> dict[str, Any]:
        """Read a checkpoint onto the CPU without executing anything in it.

        Raises:
            WeightsError: the file cannot be read.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise WeightsError(f"{path}: cannot be read as a checkpoint: {reason}") from error
        if not isinstance(state, dict) or "model" not in state:
            raise WeightsError(f"{path}: expected a dictionary with an entry 'model'")
        return state

    def records(self) -> list[Record]:
        """All records with a readable manifest and an existing file, newest first."""
        found = [read_manifest(path) for path in self._manifests()]
        return [r for r in found if isinstance(r, Record) and r.path.is_file()]

    def describe_contents(self) -> str:
        """What the folder holds, for the message that nothing can be resumed."""
        files = sorted(p.name for p in self.folder.glob("model_*.pth"))
        if not files:
            return f"no checkpoint in {self.folder}"
        return f"no verified checkpoint in {self.folder}, which holds {', '.join(files[-3:])}"

    def _manifests(self) -> list[Path]:
        numbered: list[tuple[int, int, Path]] = []
        for path in filter(is_checkpoint, self.folder.glob("model_*.json")):
            record = read_manifest(path)
            is_final = path.stem == Path(FINAL).stem
            if isinstance(record, Record):
                iteration = record.iteration
            else:
                iteration = -1 if is_final else int(path.stem.removeprefix("model_"))
            numbered.append((iteration, 0 if is_final else 1, path))
        return [path for _, _, path in sorted(numbered, reverse=True)]

    def _reject(self, record: Record) -> str | None:
        """Why the file is not what its manifest says; None if it is."""
        reason = reject(record)
        if reason is None:
            self._verified[record.path.name] = record.sha256
            self._last_bytes = record.num_bytes
        return reason

    def _check_pointer(self, record: Record) -> None:
        pointer = self.folder / POINTER
        try:
            named = pointer.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            named = ""
        if named not in (record.path.name, FINAL):
            logger.warning(
                "%s names '%s'; the newest verified checkpoint is %s",
                pointer,
                named,
                record.path.name,
            )

    # ---------------------------------------------------------------- cleaning

    def remove_debris(self) -> None:
        """Delete temporary files of killed processes; called once, before anything is written."""
        for pattern in ("model_*.pth", "model_*.json", POINTER):
            for path in leftovers(self.folder, pattern):
                logger.info("Removing %s, left by an interrupted save", path)
                self._delete(path)
        for folder in self.folder.glob(f"model_*{SHARDS_SUFFIX}*"):
            if folder.suffix != SHARDS_SUFFIX or not folder.with_suffix(".pth").exists():
                logger.info("Removing %s, left by an interrupted save", folder)
                shutil.rmtree(folder, ignore_errors=True)

    def prune(self) -> None:
        """Delete numbered checkpoints beyond `max_to_keep`, if two verified ones stay."""
        if self.max_to_keep is None:
            return
        records = [r for r in self.records() if r.path.name != FINAL]
        num_kept = max(self.max_to_keep, MIN_VERIFIED)
        kept, old = records[:num_kept], records[num_kept:]
        if not old or sum(self._is_verified(r) for r in kept) < MIN_VERIFIED:
            return
        for record in old:
            self._delete(record.path)
            self._delete(record.path.with_suffix(".json"))
            shutil.rmtree(record.path.with_suffix(SHARDS_SUFFIX), ignore_errors=True)

    def _is_verified(self, record: Record) -> bool:
        known = self._verified.get(record.path.name) == record.sha256
        return known or self._reject(record) is None

    def _delete(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("Cannot delete %s: %s", path, error.strerror)


def _tensor_bytes(value: Any) -> int:
    """Bytes of all tensors in nested containers."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(_tensor_bytes(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_tensor_bytes(item) for item in value)
    return 0
