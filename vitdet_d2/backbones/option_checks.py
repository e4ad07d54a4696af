# SPDX-License-Identifier: Apache-2.0
"""Whether the value of an option fits the type of the argument that it becomes."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from vitdet_d2.errors import RecipeError


def check_type(where: str, value: Any, hint: Any) -> None:
    """Require that a value fits a type.

    Args:
        where: full name of the key.
        value: what stands there.
        hint: a plain type, a ``Literal``, a ``Sequence`` of a plain type, or a union of such.

    Raises:
        RecipeError: it does not.
    """
    if not _fits(value, hint):
        got = f"{value!r} ({type(value).__name__})"
        words = [choice for part in _parts(hint) for choice in get_args(part)]
        guess = nearest(value, words) if isinstance(value, str) else ""
        raise RecipeError(f"{where}: expected {_describe(hint)}, got {got}{guess}")


def check_options(
    where: str, given: Mapping[str, Any], known: Mapping[str, Any], hints: Mapping[str, Any]
) -> None:
    """Require known options with values of the right types.

    Args:
        where: full name of the mapping.
        given: what stands there; an option whose default is None may be None.
        known: every option with its default.
        hints: every option's type, see `check_type`.

    Raises:
        RecipeError: there are others.
    """
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise RecipeError(
            f"{where}: unknown {', '.join(unknown)}{nearest(unknown[0], known)}; expected any "
            f"of {name_list(known)}"
        )
    for option, value in given.items():
        if value is not None or known[option] is not None:
            check_type(f"{where}.{option}", value, hints[option])


def by_name(table: Mapping[str, Any], name: str, where: str) -> Any:
    """Return what a table has under a name.

    Args:
        table: of all names.
        name: what was written.
        where: full name of the key.

    Raises:
        RecipeError: the table has no such name.
    """
    if name not in table:
        raise RecipeError(
            f"{where}: expected one of {name_list(map(repr, table))}, got {name!r}"
            f"{nearest(name, table)}"
        )
    return table[name]


def nearest(name: str, known: Iterable[Any]) -> str:
    """Return a hint at the most similar name, empty where none is similar.

    Args:
        name: what was written.
        known: what might be meant.
    """
    words = {str(word).lower(): word for word in known}
    found = difflib.get_close_matches(name.lower(), words, n=1)
    return f" (did you mean {words[found[0]]}?)" if found else ""


def name_list(names: Iterable[str]) -> str:
    """Return names for a message.

    Args:
        names: any number.
    """
    return ", ".join(sorted(names))


def _parts(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the one type."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    return any(_fits_one(value, part) for part in _parts(hint))


def _fits_one(value: Any, hint: Any) -> bool:
    if hint is type(None):
        return value is None
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is Sequence:
        (item,) = get_args(hint)
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        return is_list and all(_fits(v, item) for v in value)
    if isinstance(value, bool):
        return hint is bool  # for Python, True is an int
    return isinstance(value, int | float if hint is float else hint)


def _describe(hint: Any) -> str:
    return " or ".join(_describe_one(part) for part in _parts(hint))


def _describe_one(hint: Any) -> str:
    if hint is type(None):
        return "None"
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if get_origin(hint) is Sequence:
        return f"a list of {_describe(get_args(hint)[0])}"
    return str(hint.__name__)
