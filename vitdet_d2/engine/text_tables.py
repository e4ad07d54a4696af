# SPDX-License-Identifier: Apache-2.0
"""Tables of text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines of text, their cells below each other.

    Args:
        rows: of equally many cells.
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def print_facts(rows: Mapping[str, str]) -> None:
    """Print facts, one a line, behind their titles.

    Args:
        rows: facts by title.
    """
    width = max(len(title) for title in rows)
    for title, value in rows.items():
        print(f"{title.ljust(width)}  {value}")
