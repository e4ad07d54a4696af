# SPDX-License-Identifier: Apache-2.0
"""Reading parts of a file straight into the memory they stay in, on several threads.

A mapped file would need no reading at all, but changes under the model when the file is written
again, and ends the process when it becomes shorter.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

# Read and summed while it is in the cache of the processor; a multiple of every number's size.
_CHUNK_BYTES = 1024 * 1024
# More do not help: memory is the limit.
_MAX_THREADS = 4


class ChecksumError(ValueError):
    """A part of a file is not what was written."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A part of a file.

    Attributes:
        name: for messages.
        offset: first byte in the file.
        memory: where it belongs, writable, of its size.
        checksum: its CRC-32; None: not known.
    """

    name: str
    offset: int
    memory: memoryview
    checksum: int | None = None


def read_spans(descriptor: int, spans: Sequence[Span]) -> None:
    """Read parts of a file, and compare them with their checksums.

    Args:
        descriptor: of an open file.
        spans: what to read.

    Raises:
        EOFError: the file is shorter.
        ChecksumError: a part is not what was written.
    """
    pieces = [piece for span in spans for piece in _pieces(span)]
    if sum(len(piece.memory) for piece in pieces) <= _CHUNK_BYTES:
        for piece in pieces:
            _read(descriptor, piece)
        return
    threads = min(_MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda piece: _read(descriptor, piece), pieces):
            pass


def _pieces(span: Span) -> list[Span]:
    if span.checksum is not None:
        return [span]
    step = 16 * _CHUNK_BYTES
    return [
        Span(
            name=span.name,
            offset=span.offset + start,
            memory=span.memory[start : start + step],
        )
        for start in range(0, len(span.memory), step)
    ]


def _read(descriptor: int, span: Span) -> None:
    checksum, done = 0, 0
    while done < len(span.memory):
        part = span.memory[done : done + _CHUNK_BYTES]
        count = os.preadv(descriptor, [part], span.offset + done)
        if count == 0:
            raise EOFError(f"the file ends in {span.name}")
        if span.checksum is not None:
            checksum = zlib.crc32(part[:count], checksum)
        done += count
    if span.checksum is not None and checksum != span.checksum:
        raise ChecksumError(f"{span.name} does not match its checksum")
