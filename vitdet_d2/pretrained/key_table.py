# SPDX-License-Identifier: Apache-2.0
"""Declarative renaming of the keys of a state dict, with every key accounted for.

A table maps patterns of a source's keys to names of ours. In a pattern ``{n}`` stands for a number,
``{m}`` for another one, and ``{rest}`` for any text; the same fields in the target repeat what they
matched. The first pattern that matches a whole key decides; a key that none matches is unknown,
which is an error of the caller. Tensors may be on the meta device.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

# Longer numbers are none of a block's.
_FIELDS = {"n": r"(?P<n>\d{1,4})", "m": r"(?P<m>\d{1,4})", "rest": r"(?P<rest>.+)"}
_QUERY, _KEY, _VALUE = range(3)
_WORDS = ("queries", "keys", "values")
ALL_THREE = (_QUERY, _KEY, _VALUE)
KEYS_AND_VALUES = (_KEY, _VALUE)


@dataclass(frozen=True)
class Part:
    """The rows of queries (0), keys (1) or values (2) in a matrix or bias that holds several.

    Keys without a bias get zeros, which is what their encoder computes. A bias that keys do have is
    kept: the softmax cancels it without rotary positions, not with them.

    Attributes:
        target: the matrix or bias.
        index: of the part.
        transform: of the rows, before they are joined.
        parts: that it holds, in this order.
    """

    target: str
    index: int
    transform: Callable[[Tensor], Tensor] | None = None
    parts: tuple[int, ...] = ALL_THREE


@dataclass(frozen=True)
class Take:
    """A tensor that is changed on its way: transposed, flattened, cut."""

    target: str
    transform: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Halves:
    """A matrix or bias whose upper and lower half of rows are two of ours: gate and value."""

    first: str
    second: str


# None: dropped, on purpose.
Target = str | Part | Take | Halves | None
KeyTable = Mapping[str, Target]


@dataclass(kw_only=True)
class Renamed:
    """What a table made of a state dict.

    Attributes:
        tensors: by our names.
        dropped: keys that the table drops.
        unknown: keys that it does not know.
        zero_key_biases: our names of biases whose part of the keys is zero.
        problems: what contradicts the table, in words.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    zero_key_biases: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def rename(state: Mapping[str, Tensor], table: KeyTable) -> Renamed:
    """Rename a state dict.

    Args:
        state: tensors by the source's keys.
        table: for every one of them.
    """
    result = Renamed()
    parts: dict[str, dict[int, Tensor]] = {}
    orders: dict[str, tuple[int, ...]] = {}
    for key, tensor in state.items():
        found = _find(key, table)
        if found is None:
            result.unknown.append(key)
            continue
        target, fields = found
        if target is None:
            result.dropped.append(key)
        elif isinstance(target, Part):
            rows = target.transform(tensor) if target.transform else tensor
            name = _fill(target.target, fields)
            parts.setdefault(name, {})[target.index] = rows
            orders[name] = target.parts
        else:
            for name, taken in _taken(target, tensor, fields):
                if name in result.tensors:
                    result.problems.append(f"{key}: another key gives {name} already")
                result.tensors[name] = taken
    for name, found_parts in parts.items():
        _join(name, found_parts, orders[name], result)
    return result


def matches_any(key: str, patterns: tuple[str, ...]) -> bool:
    """Whether a key matches one of the patterns."""
    return any(_compiled(pattern).fullmatch(key) for pattern in patterns)


def _taken(
    target: str | Take | Halves, tensor: Tensor, fields: Mapping[str, str]
) -> Iterator[tuple[str, Tensor]]:
    """Name a tensor, or what is made of it."""
    if isinstance(target, str):
        yield _fill(target, fields), tensor
    elif isinstance(target, Take):
        yield _fill(target.target, fields), target.transform(tensor)
    else:
        middle = tensor.shape[0] // 2
        yield _fill(target.first, fields), tensor[:middle]
        yield _fill(target.second, fields), tensor[middle:]


def _join(name: str, parts: dict[int, Tensor], order: tuple[int, ...], result: Renamed) -> None:
    """Put queries, keys and values one below the other."""
    if name in result.tensors:
        result.problems.append(f"{name}: given in one piece and in parts")
        return
    if _KEY not in parts and _QUERY in parts and parts[_QUERY].dim() == 1:
        parts[_KEY] = torch.zeros_like(parts[_QUERY])
        result.zero_key_biases.append(name)
    missing = [_WORDS[i] for i in order if i not in parts]
    if missing:
        result.problems.append(f"{name}: the file has no part for the {' and the '.join(missing)}")
        return
    result.tensors[name] = torch.cat([parts[i] for i in order])


def _find(key: str, table: KeyTable) -> tuple[Target, dict[str, str]] | None:
    for pattern, target in table.items():
        found = _compiled(pattern).fullmatch(key)
        if found:
            return target, found.groupdict()
    return None


def _fill(template: str, fields: Mapping[str, str]) -> str:
    for name, text in fields.items():
        template = template.replace(f"{{{name}}}", text)
    return template


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern.

    Raises:
        ValueError: the pattern has an unknown field.
    """
    pieces = re.split(r"\{(\w+)\}", pattern)
    unknown = set(pieces[1::2]) - set(_FIELDS)
    if unknown:
        raise ValueError(f"pattern {pattern!r}: expected the fields n, m and rest, got {unknown}")
    return re.compile("".join(_FIELDS[p] if i % 2 else re.escape(p) for i, p in enumerate(pieces)))
