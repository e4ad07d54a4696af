# SPDX-License-Identifier: Apache-2.0
"""Key lists of official model classes at full size, as tensors without memory.

``keys/NAME.json`` holds ``{"made_with": ..., "keys": {name: shape}}``. A run of names that differ
in one number, and have the same shape, is one entry: ``blocks.{0-11}.norm1.weight``,
``blocks.{2,5,8,11}.attn.rel_pos_h``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "keys"

_NUMBERS = re.compile(r"\{([\d,-]+)\}")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def names() -> list[str]:
    """Return the names of all lists."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read(name: str, folder: Path = FOLDER) -> dict[str, Tensor]:
    """Read a list: every tensor of the file, on the meta device."""
    entries = json.loads((folder / f"{name}.json").read_text())["keys"]
    return {
        key: torch.empty(shape, device="meta")
        for pattern, shape in entries.items()
        for key in _expand(pattern)
    }


def write(name: str, shapes: Mapping[str, tuple[int, ...]], made_with: str) -> None:
    """Write a list, one entry for each run of names."""
    runs: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for key, shape in shapes.items():
        number = _NUMBER.search(key)
        template = key if number is None else _NUMBER.sub("{}", key, count=1)
        runs.setdefault((template, tuple(shape)), []).append(int(number[0]) if number else -1)
    entries = {
        template.replace("{}", f"{{{_ranges(sorted(numbers))}}}"): list(shape)
        for (template, shape), numbers in runs.items()
    }
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(entries[key])}" for key in entries)
    head = f'{{\n "made_with": {json.dumps(made_with)},\n "keys": {{\n'
    (FOLDER / f"{name}.json").write_text(f"{head}{lines}\n }}\n}}\n")


def _expand(pattern: str) -> Iterator[str]:
    found = _NUMBERS.search(pattern)
    if found is None:
        yield pattern
        return
    for part in found[1].split(","):
        first, _, last = part.partition("-")
        for number in range(int(first), int(last or first) + 1):
            yield _NUMBERS.sub(str(number), pattern, count=1)


def _ranges(numbers: list[int]) -> str:
    """Write ``[0, 1, 2, 5]`` as ``0-2,5``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
