# SPDX-License-Identifier: Apache-2.0
"""The entry ``vitdet_d2`` of a file of ours: what its tensors do not say.

Vocabulary:
    entry: a dictionary of plain values. In pickles and ``.pth`` it stands beside ``model``; in
        ``.safetensors``, whose metadata are texts, as JSON.
    detector's: class names, category ids, recipe (JSON text), pixel statistics.
    encoder's: what `described` says of its source; it has a ``source``.

Nothing in an entry is believed before it is checked: files come from anywhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from vitdet_d2.checks.safetensors_file import METADATA
from vitdet_d2.errors import WeightsError

KEY = "vitdet_d2"
SCHEMA = 1
# A recipe is some 30 kB, and the names of LVIS are as much; no entry of ours comes near.
MAX_CHARACTERS = 4_000_000
_MAX_WORDS = 1000

_ACTIVATIONS = ("gelu", "quick_gelu", "gelu_tanh")
_ROTARY = (None, "half", "interleaved")

Check = Callable[[Any], bool]


def read_entry(path: str, content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the entry of a file; None: it has none.

    Args:
        path: of the file, for messages.
        content: what `read_weights` returned.

    Raises:
        WeightsError: it has one that cannot be read, or is of a newer version.
    """
    return checked_entry(path, raw_entry(content))


def raw_entry(content: Mapping[str, Any]) -> Any:
    """Return the entry as it stands in a file, unchecked; None: it has none.

    Args:
        content: what `read_weights` returned.
    """
    if KEY in content and not hasattr(content[KEY], "shape"):
        return content[KEY]
    metadata = content.get(METADATA)
    return metadata.get(KEY) if isinstance(metadata, Mapping) else None


def checked_entry(path: str, raw: Any) -> dict[str, Any] | None:
    """Return an entry whose values have the types that they should have.

    Args:
        path: of the file, for messages.
        raw: of `raw_entry`.

    Raises:
        WeightsError: as of `read_entry`.
    """
    if raw is None:
        return None
    entry, problem = _parsed(raw) if isinstance(raw, str) else (raw, None)
    if problem is None:
        problem = _problem(entry)
    if problem is not None:
        raise WeightsError(_refusal(path, entry, problem))
    assert isinstance(entry, dict), "checked"
    return entry


def _parsed(text: str) -> tuple[Any, str | None]:
    if len(text) > MAX_CHARACTERS:
        return None, f"{len(text)} characters, more than {MAX_CHARACTERS}"
    try:
        return json.loads(text), None
    except (ValueError, RecursionError) as error:
        return None, f"no JSON: {str(error)[:80]}"


def _problem(entry: Any) -> str | None:
    """Say what is wrong with an entry."""
    if not isinstance(entry, dict):
        return f"expected a dictionary, got {type(entry).__name__}"
    schema = entry.get("schema", SCHEMA)
    if _is_count(schema) and schema > SCHEMA:
        return f"it has schema {schema}, of a newer version; this one reads {SCHEMA}: upgrade"
    # Of a detector anything may be absent; an encoder's entry is whole.
    missing = [name for name in _ENCODER if name not in entry] if is_encoder(entry) else []
    if missing:
        return f"it has no {', '.join(missing)}"
    checks = {**_COMMON, **(_ENCODER if is_encoder(entry) else _DETECTOR)}
    for name, check in checks.items():
        if name in entry and not check(entry[name]):
            return f"{name} is {_shown(entry[name])}"
    return None


def is_encoder(entry: Mapping[str, Any] | None) -> bool:
    """Whether an entry is an encoder's."""
    return entry is not None and "source" in entry


def _refusal(path: str, entry: Any, problem: str) -> str:
    start = f"{path}: its entry {KEY!r}, which says what the tensors do not, is damaged: {problem}"
    if isinstance(entry, dict) and not is_encoder(entry):
        return f"{start}; get the file again, or make it again from its checkpoint"
    return (
        f"{start}; get the file again, or convert it again. To use the tensors of an encoder "
        "alone, name its source: --source NAME, train.init_options.source=NAME, or source=NAME "
        "in Python"
    )


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list, tuple)):
        return f"a {type(value).__name__} of {len(value)} with other values than expected"
    if isinstance(value, str):
        return ascii(value[:60])
    # The digits of an integer may be too many to be written.
    is_short = value is None or isinstance(value, float) or _is_count(value)
    return str(value) if is_short else f"a wrong {type(value).__name__}"


# ------------------------------------------------------------------------------------- checks


def _is_words(value: Any) -> bool:
    """Whether it is a text that may be shown: no control characters for terminals."""
    return isinstance(value, str) and len(value) <= _MAX_WORDS and value.isprintable()


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_number(value: Any) -> bool:
    # Integers may have any number of digits.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1e6 and math.isfinite(value)


def _is_triple(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 3 and all(map(_is_number, value))


def _is_scale(value: Any) -> bool:
    return _is_triple(value) and all(number > 0 for number in value)


def _is_list_of(check: Check) -> Check:
    return lambda value: isinstance(value, (list, tuple)) and all(map(check, value))


def _is_recipe(value: Any) -> bool:
    """Whether it is the JSON text of a mapping, or nothing."""
    if not isinstance(value, str) or len(value) > MAX_CHARACTERS:
        return value is None
    try:
        return not value or isinstance(json.loads(value), dict)
    except (ValueError, RecursionError):
        return False


def _is_needs(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"act", "eps", "rope"}:
        return False
    known = value["act"] in _ACTIVATIONS and value["rope"] in _ROTARY
    return known and _is_number(value["eps"]) and 0 < value["eps"] < 1


def _is_normalisation(value: Any) -> bool:
    if not isinstance(value, dict):
        return value is None
    known = value.keys() == {"name", "mean", "std"} and _is_words(value["name"])
    return known and _is_triple(value["mean"]) and _is_scale(value["std"])


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


_COMMON: Mapping[str, Check] = {
    "schema": lambda value: _is_count(value) and value == SCHEMA,
    "written_by": _is_words,
}
_DETECTOR: Mapping[str, Check] = {
    "thing_classes": _or_none(_is_list_of(lambda value: isinstance(value, str))),
    "dataset_ids": _or_none(_is_list_of(lambda v: isinstance(v, int) and abs(v) < 2**63)),
    "recipe": _is_recipe,
    "pixel_mean": _is_triple,
    "pixel_std": _is_scale,
    "input_format": lambda value: value in ("RGB", "BGR"),
}
_ENCODER: Mapping[str, Check] = {
    "source": _is_words,
    "title": _is_words,
    "num_prefix": _is_count,
    "num_heads": _or_none(lambda value: _is_count(value) and value > 0),
    "needs": _is_needs,
    "normalisation": _is_normalisation,
    "patch_is_final": _or_none(_is_words),
    "notes": _is_list_of(_is_words),
}
