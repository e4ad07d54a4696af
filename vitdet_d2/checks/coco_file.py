# SPDX-License-Identifier: Apache-2.0
"""Annotation files as far as their top level: read, and seen to be what they should be."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from .coco_values import quote


def load_document(
    path_or_dict: str | os.PathLike[str] | Mapping[str, Any],
) -> tuple[str, dict[str, Any]]:
    """Read an annotation file, if it is not read yet.

    Args:
        path_or_dict: the file, or its content, which is not changed.

    Returns:
        Its name for messages, and a copy of its top level with lists of objects as ``images``,
        ``annotations`` and ``categories``.

    Raises:
        DataError: it is no COCO annotation file.
    """
    if isinstance(path_or_dict, Mapping):
        source, document = "annotations", dict(path_or_dict)
    else:
        source = str(path_or_dict)
        document = read_json(Path(path_or_dict))
    if not isinstance(document, dict):
        hint = " (a list is a file of results)" if isinstance(document, list) else ""
        raise DataError(
            f"{source}: expected a COCO annotation file, an object with 'images', 'annotations' "
            f"and 'categories', got {type(document).__name__}{hint}"
        )
    # A file of test images has no annotations.
    document.setdefault("annotations", [])
    for key in ("images", "annotations", "categories"):
        entries = document.get(key)
        if not isinstance(entries, list):
            raise DataError(
                f"{source}: expected a list {key!r}, got {quote(entries)}; "
                "this is no COCO annotation file"
            )
        if not set(map(type, entries)) <= {dict}:
            bad = next(i for i, entry in enumerate(entries) if not isinstance(entry, dict))
            raise DataError(
                f"{source}: expected an object as entry {bad} of {key!r}, got {quote(entries[bad])}"
            )
    return source, document


def read_json(path: Path, what: str = "annotation file") -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        what: words for it in messages.

    Returns:
        Its content.

    Raises:
        DataError: it is missing, unreadable or no JSON.
    """
    try:
        with path.open("rb") as file:
            return json.load(file)
    except FileNotFoundError as error:
        raise DataError(f"{what} {path} not found; correct the path") from error
    except OSError as error:
        raise DataError(f"{what} {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{what} {path} is no valid JSON ({error}); download or export it again"
        ) from error
