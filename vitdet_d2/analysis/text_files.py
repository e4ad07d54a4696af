# SPDX-License-Identifier: Apache-2.0
"""Reports as files: CSV and text, seen to be writable before the work whose outcome they hold."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from vitdet_d2.atomic_write import atomic_write
from vitdet_d2.errors import RecipeError, UserError

Cell = str | int | float | None


def check_output(path: Path) -> None:
    """Refuse a file that could not be written.

    Args:
        path: of the file.

    Raises:
        RecipeError: it is a folder, or lies in none, or in one that is closed.
    """
    if path.is_dir():
        raise RecipeError(f"{path} is a folder; name a file")
    if not path.absolute().parent.is_dir():
        raise RecipeError(f"{path.parent} is no folder; make it first")
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise RecipeError(f"{path.parent} is closed for writing; name a file in another folder")


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole, replacing an older one.

    Args:
        path: of the file.
        text: what it holds.

    Raises:
        UserError: the system refuses.
    """
    try:
        with atomic_write(path) as file:
            file.write(text.encode("utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def csv_text(rows: Sequence[Sequence[Cell]]) -> str:
    """Return rows as comma-separated values; None is an empty cell.

    Args:
        rows: the first holds the titles.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
