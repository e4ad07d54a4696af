# SPDX-License-Identifier: Apache-2.0
"""Weights from the web as verified local files, downloaded at most once.

What lies in the cache under its name is complete and was verified. Of several processes that want
a file at once, one downloads it while the others wait; where the file system has no locks, each
downloads under a name of its own, and the last one's equal file stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vitdet_d2.checks.weights_file import sniff
from vitdet_d2.data.cache import cache_folder
from vitdet_d2.errors import DownloadError, RecipeError, UserError, WeightsError
from vitdet_d2.zoo.addresses import (
    OFFLINE_VARIABLE,
    cache_path,
    canonical,
    hash_prefix,
    offline,
    redact,
    sources,
)
from vitdet_d2.zoo.hashes import Digests, Record, check, digest_file, read_record, write_record
from vitdet_d2.zoo.partial_file import PartialFile, remove_leftovers
from vitdet_d2.zoo.transfer import transfer

logger = logging.getLogger(__name__)

CACHE_PART = "weights"


@dataclass(frozen=True, kw_only=True)
class CachedFile:
    """A verified file.

    Attributes:
        path: where it lies.
        record: what it is.
        downloaded: it was fetched by this call.
    """

    path: Path
    record: Record
    downloaded: bool


def fetch(address: str) -> CachedFile:
    """Return a file of the web, from the cache or freshly downloaded, and verified either way.

    Args:
        address: ``https://``, ``http://``, ``file://`` or ``detectron2://NAME``.

    Raises:
        RecipeError: it is no such address.
        DownloadError: it cannot be fetched now.
        WeightsError: the server refuses, or what it gives is not the file, or no weights file.
    """
    full = canonical(address)
    if full is None:
        raise RecipeError(f"{redact(address)!r} is no web address of weights")
    path = cache_folder(CACHE_PART) / cache_path(full)
    found = _from_cache(full, path)
    if found is not None:
        return found
    if offline() and not all(source.startswith("file://") for source in sources(full)):
        raise DownloadError(
            f"{redact(full)} is not in the cache ({path}) and {OFFLINE_VARIABLE} is set; download "
            "it where there is a network, and copy it to that path"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            # Another process may have been here meanwhile.
            return _from_cache(full, path) or _download(full, path)
    except OSError as error:
        raise DownloadError(
            f"{path.parent} cannot be used ({error}); set VITDET_D2_CACHE to a folder that can be "
            "written to"
        ) from None


def cached_path(address: str) -> Path | None:
    """Return where a file lies in the cache, without verifying it; None: it is not there.

    Args:
        address: canonical.
    """
    path = cache_folder(CACHE_PART) / cache_path(address)
    return path if path.is_file() else None


def _from_cache(address: str, path: Path) -> CachedFile | None:
    """Return the cached file if it is what it was; one that is not gets out of the way.

    Raises:
        WeightsError: its record is damaged.
    """
    if not path.is_file():
        return None
    record, prefix = read_record(path), hash_prefix(address)
    status = path.stat()
    digests = _digests(path, status.st_ino, status.st_size, status.st_mtime_ns)
    try:
        prefix_of = check(digests, redact(address), prefix, record)
        sniff(path)
    except WeightsError as error:
        quarantine = path.with_name(f"{path.name}.corrupt")
        logger.warning("The cached file is damaged and is now %s: %s", quarantine, error)
        with contextlib.suppress(FileNotFoundError):  # another process noticed it too
            os.replace(path, quarantine)
        return None
    if record is None:
        record = write_record(path, redact(address), digests, prefix, prefix_of)
    return CachedFile(path=path, record=record, downloaded=False)


@functools.lru_cache(maxsize=8)
def _digests(path: Path, *_: int) -> Digests:
    """Hash a file once in a process, as long as it is the same by inode, size and time."""
    return digest_file(path)


def _download(address: str, path: Path) -> CachedFile:
    """Fetch a file that is not in the cache from the first source that gives it.

    Raises:
        DownloadError: it cannot be fetched now.
        WeightsError: it is not given, or it is another file.
    """
    errors: list[UserError] = []
    for source in sources(address):
        try:
            return _download_from(source, address, path)
        except UserError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    kind = WeightsError if all(isinstance(e, WeightsError) for e in errors) else DownloadError
    raise kind(f"no source gave {path.name}: " + "; ".join(str(error) for error in errors))


def _download_from(source: str, address: str, path: Path) -> CachedFile:
    """Fetch a file from one source, and verify it.

    Raises:
        DownloadError: it cannot be fetched now.
        WeightsError: it is not given, or it is another file.
    """
    shown, prefix, record = redact(source), hash_prefix(address), read_record(path)
    logger.info("Downloading %s to %s", shown, path)
    while True:
        with PartialFile(path) as part:
            transfer(source, part, path.name)
            digests = digest_file(part.path)
            try:
                _check_content(part.path, shown)
                prefix_of = check(digests, shown, prefix, record)
            except WeightsError as error:
                part.discard()
                if not part.resumed:
                    raise
                logger.warning("Starting anew, as the resumed file is wrong: %s", error)
                continue
            part.finish(path)
        remove_leftovers(path)
        if record is None:
            record = write_record(path, redact(address), digests, prefix, prefix_of)
        return CachedFile(path=path, record=record, downloaded=True)


def _check_content(path: Path, shown: str) -> None:
    """Refuse what no program could read as weights.

    Raises:
        WeightsError: the first bytes are of something else.
    """
    try:
        sniff(path)
    except WeightsError as error:
        what = str(error).removeprefix(f"{path}: ")
        raise WeightsError(f"{shown}: nothing was kept: {what}") from None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time download a file, where the file system can do that."""
    with path.with_name(f".{path.name}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("Waiting for another process to download %s", path.name)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            logger.debug("No locks in %s (%s)", path.parent, error)
        yield
