# SPDX-License-Identifier: Apache-2.0
"""Reading what torch wrote: its zip archive, its format of before 1.6, and TorchScript archives.

The pickle in the file is read as ``torch.load(weights_only=True)`` reads it, only by a smaller
allow-list, with every tensor checked against its storage, and every storage against its checksum,
which torch leaves unread. A TorchScript archive gives its tensors; its code is not even looked at.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
from typing import Any, BinaryIO

import torch

from vitdet_d2.checks.file_spans import ChecksumError, Span, read_spans
from vitdet_d2.checks.pickled_tensors import (
    TENSOR_NAMES,
    Storage,
    StorageView,
    TensorView,
    storage_type,
)
from vitdet_d2.checks.placeholders import Name, Placeholder
from vitdet_d2.checks.safe_pickle import BoundedFile, SafeUnpickler, explained, plain
from vitdet_d2.checks.zip_records import Record, read_directory
from vitdet_d2.errors import WeightsError

# The structure of a training checkpoint of ViT-H takes half a megabyte.
_MAX_STRUCTURE_BYTES = 256 * 1024**2
_MAX_TENSORS = 1_000_000
# The names of all tensors of CLIP's TorchScript archives have some 50,000 characters.
_MAX_NAMES = 20_000_000
# All the modules of a TorchScript archive have names below this one.
_SCRIPT = "__torch__"
_CURE = "get the file again, and compare its size and checksum with the source's"


class ScriptModule(Placeholder):
    """A module of a TorchScript archive: its attributes by name."""

    def __init__(self) -> None:
        """Start empty."""
        self.attributes: dict[Any, Any] = {}

    def build(self, state: Any) -> None:
        """Take the attributes.

        Raises:
            pickle.UnpicklingError: they are no dictionary.
        """
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("a module without attributes")
        self.attributes.update(state)


_SCRIPT_NAMES = {**TENSOR_NAMES, _SCRIPT: Name(_SCRIPT, ScriptModule)}


class _TensorUnpickler(SafeUnpickler):
    """Reads a pickle with tensors; ``storages`` has what they refer to."""

    def __init__(self, file: BoundedFile, sizes: dict[str, int] | None, *, script: bool) -> None:
        """Prepare to read one pickle.

        Args:
            file: at the pickle.
            sizes: bytes of each storage in the file; None: only the pickle says them.
            script: whether modules of TorchScript may be in it.
        """
        if script:
            super().__init__(file, _SCRIPT_NAMES, _SCRIPT)
        else:
            super().__init__(file, TENSOR_NAMES)
        self.storages: dict[str, Storage] = {}
        self._sizes = sizes

    def persistent_load(self, pid: Any) -> StorageView:
        """Return a view of a storage: ``("storage", type, key, device, length, view or none)``.

        Raises:
            pickle.UnpicklingError: it is no reference to a storage.
            EOFError: the storage is not in the file, or not all of it.
        """
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise pickle.UnpicklingError("a reference to something that is no storage")
        dtype, key, length = storage_type(pid[1]), pid[2], pid[4]
        if len(pid) == 6 and pid[5] is not None:
            raise pickle.UnpicklingError("a storage inside another")
        if not isinstance(key, str) or not isinstance(length, int) or not 0 <= length < 2**60:
            raise pickle.UnpicklingError("a reference to something that is no storage")
        size = length * dtype.itemsize
        if self._sizes is not None and self._sizes.get(key) != size:
            raise EOFError(f"storage {key[:40]} is not there, or not all of it")
        storage = self.storages.setdefault(key, Storage(key, size))
        if storage.size != size:
            raise pickle.UnpicklingError("a storage of two sizes")
        return StorageView(storage, dtype)


def read_archive(path: str | os.PathLike[str]) -> Any:
    """Read a zip archive of torch.

    Args:
        path: a local file.

    Returns:
        What was saved: built-in containers, numbers, texts, CPU tensors and numpy arrays. Of a
        TorchScript archive: its tensors by name, as in the state dict of the module.

    Raises:
        WeightsError: it is another archive, cut off, damaged, or asks for anything else.
    """
    with open(path, "rb") as file:
        records = read_directory(path, file)
        root = _root(path, records)
        _check_byte_order(path, file, records.get(f"{root}byteorder"))
        script = any(name.startswith(f"{root}code/") for name in records)
        prefix = f"{root}data/"
        stored = {
            name.removeprefix(prefix): record
            for name, record in records.items()
            if name.startswith(prefix) and not record.compressed
        }
        sizes = {key: record.size for key, record in stored.items()}
        try:
            structure = _read_record(file, records[f"{root}data.pkl"])
            unpickler = _TensorUnpickler(
                BoundedFile(io.BytesIO(structure), len(structure)), sizes, script=script
            )
            content = unpickler.load()
            _fill(file, unpickler.storages, stored)
            return _flatten(content) if script else plain(content)
        except ChecksumError as error:
            raise WeightsError(f"{path}: damaged, {error}; {_CURE}") from None
        except Exception as error:
            raise WeightsError(explained(path, error)) from None


def _root(path: str | os.PathLike[str], records: dict[str, Record]) -> str:
    """Return the folder of the archive in which everything is, with a slash.

    Raises:
        WeightsError: the archive is not one of torch.
    """
    found = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(found) == 1 and not records[found[0]].compressed:
        return found[0].removesuffix("data.pkl")
    if any("/code/" in name for name in records):
        raise WeightsError(
            f"{path}: a TorchScript program without its tensors; give the checkpoint it was made "
            "from"
        )
    if any(name.endswith(("/archive_format", "model.json")) for name in records):
        raise WeightsError(
            f"{path}: an exported program, not a weights file; give the checkpoint it was made from"
        )
    if "[Content_Types].xml" in records:
        raise WeightsError(f"{path}: an Office document; give the weights instead")
    first = next(iter(records), "nothing")[:80]
    if any(record.compressed for record in records.values()):
        kind = "a compressed archive, not a weights file"
    else:
        kind = "a zip archive, but no weights file"
    raise WeightsError(f"{path}: {kind} (in it: {first}); unpack it, and give the file inside")


def _check_byte_order(path: str | os.PathLike[str], file: BinaryIO, record: Record | None) -> None:
    if record is None or record.size > 10:
        return
    order = os.pread(file.fileno(), record.size, record.offset).decode("ascii", "replace")
    if order != sys.byteorder:
        raise WeightsError(
            f"{path}: written on a machine with {order}-endian numbers, this one has "
            f"{sys.byteorder}-endian ones; save it there as .safetensors"
        )


def _read_record(file: BinaryIO, record: Record) -> bytearray:
    if record.size > _MAX_STRUCTURE_BYTES:
        raise pickle.UnpicklingError(f"a structure of {record.size} bytes")
    data = bytearray(record.size)
    span = Span(
        name=record.name,
        offset=record.offset,
        memory=memoryview(data),
        checksum=record.checksum,
    )
    read_spans(file.fileno(), [span])
    return data


def _fill(file: BinaryIO, storages: dict[str, Storage], records: dict[str, Record]) -> None:
    spans = [
        Span(
            name=records[key].name,
            offset=records[key].offset,
            memory=storage.make_room(),
            checksum=records[key].checksum,
        )
        for key, storage in storages.items()
    ]
    read_spans(file.fileno(), spans)


def _flatten(content: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of a module and of the modules in it, by dotted name.

    Raises:
        pickle.UnpicklingError: it is no module, or one with too many tensors.
    """
    if not isinstance(content, ScriptModule):
        raise pickle.UnpicklingError("a TorchScript archive without a module")
    tensors: dict[str, torch.Tensor] = {}
    visits = characters = 0
    todo: list[tuple[str, ScriptModule]] = [("", content)]
    while todo:
        prefix, module = todo.pop()
        inner = []
        for name, value in module.attributes.items():
            if not isinstance(name, str):
                raise pickle.UnpicklingError("an attribute without a name")
            visits += 1
            characters += len(prefix) + len(name)
            if visits > _MAX_TENSORS or characters > _MAX_NAMES:
                raise pickle.UnpicklingError("modules within modules without an end")
            if isinstance(value, ScriptModule):
                inner.append((f"{prefix}{name}.", value))
            elif isinstance(value, TensorView):
                tensors[f"{prefix}{name}"] = value.result()
        todo.extend(reversed(inner))
    return tensors


def read_legacy(path: str | os.PathLike[str]) -> Any:
    """Read a file of torch < 1.6: five pickles, then the storages one after the other.

    Args:
        path: a local file.

    Returns:
        What was saved, as of ``read_archive``.

    Raises:
        WeightsError: it is cut off, damaged, or asks for anything else.
    """
    size = os.path.getsize(path)
    try:
        with open(path, "rb") as file:
            # torch's mark, the version of the format, and the machine.
            for _ in range(2):
                SafeUnpickler(_rest(file, size)).load()
            _check_machine(SafeUnpickler(_rest(file, size)).load())
            unpickler = _TensorUnpickler(_rest(file, size), None, script=False)
            content = unpickler.load()
            keys = SafeUnpickler(_rest(file, size)).load()
            _fill_legacy(file, size, _in_order(keys, unpickler.storages))
        return plain(content)
    except Exception as error:
        raise WeightsError(explained(path, error)) from None


def _check_machine(machine: Any) -> None:
    if not isinstance(machine, dict) or not machine.get("little_endian"):
        raise pickle.UnpicklingError("numbers of a big-endian machine")


def _in_order(keys: Any, storages: dict[str, Storage]) -> list[Storage]:
    are_texts = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not are_texts or sorted(keys) != sorted(storages):
        raise pickle.UnpicklingError("storages that nothing refers to")
    return [storages[key] for key in keys]


def _rest(file: BinaryIO, size: int) -> BoundedFile:
    return BoundedFile(file, size - file.tell())


def _fill_legacy(file: BinaryIO, size: int, storages: list[Storage]) -> None:
    start = file.tell()
    if start + sum(8 + storage.size for storage in storages) > size:
        raise EOFError("the file ends before its last tensor")
    spans = []
    for storage in storages:
        # The length in numbers comes first, which the pickle has said already.
        name = f"storage {storage.key[:40]}"
        spans.append(Span(name=name, offset=start + 8, memory=storage.make_room()))
        start += 8 + storage.size
    read_spans(file.fileno(), spans)
