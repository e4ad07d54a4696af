# SPDX-License-Identifier: Apache-2.0
"""The directory of a zip archive, with every claim in it checked against the file.

Vocabulary:
    record: a file in an archive.
"""

from __future__ import annotations

import os
import struct
import zipfile
from dataclasses import dataclass
from typing import BinaryIO

from vitdet_d2.errors import WeightsError

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, length of the name, of the extra field
_ENCRYPTED = 1
# A training checkpoint of ViT-H has some 2000.
_MAX_RECORDS = 200_000


@dataclass(frozen=True, kw_only=True)
class Record:
    """A record.

    Attributes:
        name: with folders.
        offset: first byte of its data in the file.
        size: of its data in the file, bytes.
        full_size: of what comes of it, bytes; the same where it is not compressed.
        compressed: whether it is.
        checksum: CRC-32; None: the archive was written without.
    """

    name: str
    offset: int
    size: int
    full_size: int
    compressed: bool
    checksum: int | None


def read_directory(path: str | os.PathLike[str], file: BinaryIO) -> dict[str, Record]:
    """Return the records of an archive by name.

    Args:
        path: for messages.
        file: the archive, open.

    Raises:
        WeightsError: it is cut off or damaged, or its records are impossible.
    """
    size = os.fstat(file.fileno()).st_size
    try:
        with zipfile.ZipFile(file) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        # torch can leave the checksums out; then all of them are zero.
        has_checksums = any(entry.CRC for entry in entries)
        records = [_record(file, entry, has_checksums) for entry in entries]
        _check_places(records, size)
    # A hostile or damaged directory can fail in any way.
    except Exception as error:
        reason = str(error)[:200] or type(error).__name__
        if "not a zip file" in reason:
            reason = "the list of its parts, which is its end, is missing"
        raise WeightsError(
            f"{path}: cut off or damaged ({reason}); get the file again, and compare its "
            "size and checksum with the source's"
        ) from None
    return {record.name: record for record in records}


def _record(file: BinaryIO, entry: zipfile.ZipInfo, has_checksums: bool) -> Record:
    if entry.flag_bits & _ENCRYPTED:
        raise zipfile.BadZipFile(f"{entry.filename} is encrypted")
    file.seek(entry.header_offset)
    header = file.read(_LOCAL_HEADER.size)
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    if signature != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"no header of {entry.filename}")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # The others ask for as much memory as their data tells them to.
        raise zipfile.BadZipFile(f"{entry.filename} is compressed as neither torch nor numpy do")
    compressed = entry.compress_type != zipfile.ZIP_STORED
    if not compressed and entry.compress_size != entry.file_size:
        raise zipfile.BadZipFile(f"two sizes of {entry.filename}")
    return Record(
        name=entry.filename,
        offset=entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length,
        size=entry.compress_size,
        full_size=entry.file_size,
        compressed=compressed,
        checksum=entry.CRC if has_checksums else None,
    )


def _check_places(records: list[Record], size: int) -> None:
    """Refuse records that lie over each other, or beyond the end: a few bytes could name many.

    Raises:
        zipfile.BadZipFile: there are such records.
    """
    if len(records) > _MAX_RECORDS:
        raise zipfile.BadZipFile(f"{len(records)} files")
    end = 0
    for record in sorted(records, key=lambda record: record.offset):
        if record.offset < end:
            raise zipfile.BadZipFile(f"{record.name} lies over another file")
        end = record.offset + record.size
    if end > size:
        raise zipfile.BadZipFile("a file lies beyond the end")
    if len({record.name for record in records}) < len(records):
        raise zipfile.BadZipFile("two files of one name")
