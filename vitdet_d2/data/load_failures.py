# SPDX-License-Identifier: Apache-2.0
"""What happens when loading goes wrong: unreadable images, wrong records, dead workers."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from vitdet_d2.errors import DataError, UserError

logger = logging.getLogger(__name__)

# What Pillow raises for a file that is missing, truncated, or no image: SyntaxError for broken PNG,
# the bomb error above 179 megapixels. Detectron2's mappers let it through.
UNREADABLE = (OSError, SyntaxError, EOFError, Image.DecompressionBombError)

# One image in a thousand: more than a damaged disk block, less than a wrong folder.
SKIPPED_SHARE = 0.001

# Far longer than any image takes; only a file system that hangs gets there.
TIMEOUT_SECONDS = 1200


class LoadingError(UserError, RuntimeError):
    """No more samples come, for a reason outside the data."""


class UnreadableImageError(DataError, OSError):
    """A file that is missing, damaged, or no image."""


@dataclass(frozen=True, kw_only=True)
class UnreadableImage:
    """An image that could not be used, and why."""

    file_name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file_name}: {self.reason}"


def describe_unreadable(record: Any, error: BaseException) -> UnreadableImage:
    """Return what is told about an image.

    Args:
        record: the data set's record.
        error: what reading it raised.
    """
    name = _file_name(record)
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Image.UnidentifiedImageError):
        reason = "not an image file"  # Pillow's own text shows a file object's address
    return UnreadableImage(
        file_name=name, reason=reason.removeprefix(f"cannot read image {name}: ")
    )


def record_error(record: Any, error: ValueError) -> DataError:
    """Return an error that names the image whose record a mapper has refused.

    Args:
        record: the data set's record.
        error: what the mapper raised.
    """
    name = _file_name(record)
    text = " ".join(str(error).split())
    image_id = record.get("image_id") if isinstance(record, dict) else None
    place = f" (image id {image_id})" if image_id is not None else ""
    return DataError(text if name in text else f"{name}{place}: {text}")


def _file_name(record: Any) -> str:
    return str(record.get("file_name", "a record")) if isinstance(record, dict) else "a record"


@dataclass(kw_only=True)
class SkipBudget:
    """How many different images may be left out before training stops."""

    num_records: int
    skipped: dict[str, str] = field(default_factory=dict)  # file name: reason

    @property
    def limit(self) -> int:
        """At least one image."""
        return max(1, int(self.num_records * SKIPPED_SHARE))

    def add(self, images: list[UnreadableImage]) -> None:
        """Count and log images.

        Args:
            images: what could not be read; one that is known already does not count again.

        Raises:
            DataError: too many by now.
        """
        for image in images:
            if image.file_name in self.skipped:
                continue
            self.skipped[image.file_name] = image.reason
            logger.warning(
                "skipped unreadable image %s (%d so far, %d are tolerated)",
                image,
                len(self.skipped),
                self.limit,
            )
        if len(self.skipped) > self.limit:
            listed = [f"{name} ({reason})" for name, reason in list(self.skipped.items())[:10]]
            raise DataError(
                f"{len(self.skipped)} of {self.num_records} training images cannot be read, "
                f"{self.limit} are tolerated: {', '.join(listed)}"
                f"{', ...' if len(self.skipped) > len(listed) else ''}; restore or remove them"
            )


def worker_error(error: RuntimeError, num_workers: int) -> RuntimeError:
    """Return what to raise where torch's DataLoader failed: with causes if a worker died.

    Args:
        error: what torch raised.
        num_workers: how many there were.
    """
    text = str(error)
    if "DataLoader timed out" in text:
        return LoadingError(
            f"no sample arrived for {TIMEOUT_SECONDS} s: the disk or the network that holds the "
            "images does not answer"
        )
    if "exited unexpectedly" not in text and "is killed by signal" not in text:
        return error
    return LoadingError(
        f"a data loading worker died ({text.splitlines()[0]}); usual causes: no memory left "
        f"({_memory()}), or /dev/shm too small ({_shared_memory()}; in a container use "
        f"--shm-size). Try fewer workers: dataloader.train.num_workers={num_workers // 2}"
    )


def _memory() -> str:
    try:
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return "unknown"
    return f"{available / 2**30:.1f} GiB free now"


def _shared_memory() -> str:
    if not Path("/dev/shm").is_dir():
        return "not there"
    usage = shutil.disk_usage("/dev/shm")
    return f"{usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB free"
