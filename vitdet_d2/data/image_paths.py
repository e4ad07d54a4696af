# SPDX-License-Identifier: Apache-2.0
"""From what a user names (files, folders, patterns) to a list of pictures, each with one name.

Vocabulary:
    root: the deepest folder that all pictures lie in.
    name: path below the root, with ``/``; different for each picture.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitdet_d2.errors import DataError

# What is taken out of a folder. A file that is named by itself is tried whatever its ending.
ENDINGS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif",
     ".ppm", ".pgm", ".pnm", ".jp2", ".avif", ".mpo")
)  # fmt: skip
_PATTERN = frozenset("*?[")
_SHOWN_OTHERS = 5


@dataclass(frozen=True, kw_only=True)
class FoundImages:
    """Pictures in the order in which they are worked on.

    Attributes:
        root: absolute.
        names: sorted within each thing that the user named.
        skipped: files in the folders that have no ending of a picture.
    """

    root: Path
    names: tuple[str, ...]
    skipped: tuple[Path, ...] = ()

    def path(self, name: str) -> Path:
        """Return where a picture lies.

        Args:
            name: one of ``names``.
        """
        return self.root / name


def find_images(
    inputs: Sequence[str | os.PathLike[str]],
    *,
    recursive: bool = False,
    exclude: Path | None = None,
) -> FoundImages:
    """Find the pictures that a user means; each is taken once.

    Args:
        inputs: files, folders and patterns (``*``, ``?``, ``[...]``, ``**`` for any folders).
        recursive: take the pictures of sub-folders too.
        exclude: the folder for the results, whose files are left out unless named one by one.

    Raises:
        DataError: one of the inputs leads to no picture; the message says where it looked.
    """
    left_out = None if exclude is None else exclude.resolve()
    found: dict[Path, Path] = {}
    skipped: list[Path] = []
    for text in [os.fspath(named) for named in inputs]:
        candidates, others = _candidates(text, recursive)
        # By the real path, so that a link and its target are one picture.
        real = {path: path.resolve() for path in candidates}
        # What is named by itself is meant, wherever it lies.
        named = [Path(text).expanduser()] == candidates
        kept = [p for p in candidates if named or left_out not in real[p].parents]
        if candidates and not kept:
            raise DataError(
                f"{text}: all its pictures lie in {exclude}, the folder for the results; name "
                "another one for these"
            )
        if not kept:
            raise DataError(_nothing(text, recursive, others))
        for path in kept:
            found.setdefault(real[path], path)
        skipped += others
    paths = [Path(os.path.normpath(path.absolute())) for path in found.values()]
    root = Path(os.path.commonpath([path.parent for path in paths]))
    names = tuple(path.relative_to(root).as_posix() for path in paths)
    return FoundImages(root=root, names=names, skipped=tuple(skipped))


def _candidates(text: str, recursive: bool) -> tuple[list[Path], list[Path]]:
    """Return the pictures and the other files behind one input."""
    path = Path(text).expanduser()
    if path.is_dir():
        return _split(_files(path, recursive))
    if not path.exists() and _PATTERN & set(text):
        matches = sorted(Path(match) for match in glob.iglob(str(path), recursive=True))
        return _split(match for match in matches if match.is_file())
    return ([path] if path.exists() else []), []


def _files(folder: Path, recursive: bool) -> Iterator[Path]:
    """Yield the files of a folder, sorted; hidden ones are what systems leave behind."""
    entries = sorted(folder.rglob("*") if recursive else folder.iterdir())
    for entry in entries:
        hidden = any(part.startswith(".") for part in entry.relative_to(folder).parts)
        if entry.is_file() and not hidden:
            yield entry


def _split(files: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    images: list[Path] = []
    others: list[Path] = []
    for file in files:
        (images if file.suffix.lower() in ENDINGS else others).append(file)
    return images, others


def _nothing(text: str, recursive: bool, others: Sequence[Path]) -> str:
    """Say where was looked, what is there instead, and the cure."""
    path = Path(text).expanduser()
    place = Path(os.path.normpath(path.absolute()))
    if path.is_dir():
        said = f"no pictures in folder {place}"
        below = 0 if recursive else len(_split(_files(path, recursive=True))[0])
        if below:
            return f"{said}, but {below} in its sub-folders; use --recursive"
    elif _PATTERN & set(text):
        said = f"no pictures match {place} (looked from {Path.cwd()})"
    else:
        return f"{place} not found; name a picture, a folder or a quoted pattern"
    if others:
        shown = ", ".join(file.name for file in others[:_SHOWN_OTHERS])
        more = ", ..." if len(others) > _SHOWN_OTHERS else ""
        said += f"; it has other files ({shown}{more})"
    return f"{said}; pictures end in {' '.join(sorted(ENDINGS))}"
