# SPDX-License-Identifier: Apache-2.0
"""Changes of a recipe from the command line: ``key=value``, ``+key=value``, ``~key``.

Vocabulary:
    key: names and list positions joined by dots, ``dataloader.train.mapper.augmentations.0.prob``.

Stricter than detectron2 ``LazyConfig.apply_overrides``, which adds a misspelt key in silence.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vitdet_d2.errors import RecipeError
from vitdet_d2.layers.recompute import Recompute
from vitdet_d2.runtime.safe_yaml import parse_value

Config = DictConfig | ListConfig

# Switches with more than two values that are no arguments of calls, which say so themselves.
_CHOICES = {"train.activation_checkpointing": Recompute}


@dataclass(frozen=True, kw_only=True)
class Override:
    """One change.

    Attributes:
        kind: what is done to the key.
        key: dotted.
        value: the new value; None for a deletion.
        value_text: the value as it was typed.
        text: the whole override as it was typed.
    """

    kind: Literal["set", "add", "delete"]
    key: str
    value: Any
    value_text: str
    text: str

    def error(self, reason: str) -> RecipeError:
        """Return an error that names the override.

        Args:
            reason: what is wrong, and the cure.
        """
        return RecipeError(f"override {self.text!r}: {reason}")


def parse_override(text: str) -> Override:
    """Read one override.

    Args:
        text: as typed.

    Raises:
        RecipeError: it has none of the three forms, or its value is not YAML.
    """
    kind: Literal["set", "add", "delete"] = "set"
    if text.startswith("~"):
        kind = "delete"
    elif text.startswith("+"):
        kind = "add"
    key, equals, value_text = text[kind != "set" :].partition("=")
    if not all(key.split(".")) or any(part != part.strip() for part in key.split(".")):
        raise RecipeError(f"override {text!r}: {key!r} is not a key; write a.b=value")
    if kind == "delete":
        if equals:
            raise RecipeError(f"override {text!r}: a deletion has no value; write ~{key}")
        return Override(kind=kind, key=key, value=None, value_text="", text=text)
    if not equals:
        raise RecipeError(
            f"override {text!r} must be key=value, +key=value (a new key) or ~key (deletes it)"
        )
    try:
        value = parse_value(value_text)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "not YAML"
        raise RecipeError(f"override {text!r}: the value is not readable: {problem}") from error
    return Override(kind=kind, key=key, value=value, value_text=value_text, text=text)


def apply_overrides(cfg: DictConfig, texts: Sequence[str]) -> None:
    """Change a recipe in place, in the order given.

    Args:
        cfg: the recipe.
        texts: the overrides as typed.

    Raises:
        RecipeError: a key does not exist (the nearest one is named), a new one does, or a value
            cannot stand where the old one did.
    """
    for override in [parse_override(text) for text in texts]:
        if override.kind == "add":
            _add(cfg, override)
            continue
        parent, name = _find(cfg, override)
        if override.kind == "delete":
            _remove(parent, name)
        else:
            _set(parent, name, override, override.key, override.value)


def given_keys(texts: Sequence[str]) -> set[str]:
    """Return the dotted keys of all values that overrides set, those inside mappings included.

    Args:
        texts: the overrides as typed.
    """

    def leaves(key: str, value: Any) -> Iterator[str]:
        if not isinstance(value, dict):
            yield key
            return
        for name, inner in value.items():
            yield from leaves(f"{key}.{name}", inner)

    overrides = [parse_override(text) for text in texts]
    return {key for o in overrides if o.kind != "delete" for key in leaves(o.key, o.value)}


def all_keys(cfg: Config, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key, those of inner mappings and lists included.

    Args:
        cfg: mapping or list.
        prefix: put before every key.
    """
    names: Sequence[Any] = list(cfg) if isinstance(cfg, DictConfig) else range(len(cfg))
    for name in names:
        yield f"{prefix}{name}"
        if OmegaConf.is_interpolation(cfg, name) or OmegaConf.is_missing(cfg, name):
            continue  # a key of its own, but what is below belongs elsewhere
        child = cfg[name]
        if isinstance(child, DictConfig) or _is_sequence(child):
            yield from all_keys(child, f"{prefix}{name}.")


def _is_sequence(value: Any) -> bool:
    """Whether it is a list or a tuple of a recipe (from 2.4 on, OmegaConf has tuples)."""
    return OmegaConf.is_config(value) and isinstance(value, Sequence)


def _value(parent: Config, name: Any) -> Any:
    """Return a child's value, an interpolation's target, None where that does not resolve."""
    try:
        return parent[name]
    except OmegaConfBaseException:
        return None


def _position(parent: Any, part: str) -> Any:
    """Return the part of a key as what indexes ``parent``, None where it has no such child."""
    if _is_sequence(parent):
        is_position = part.isdecimal() and int(part) < len(parent)
        return int(part) if is_position else None
    if isinstance(parent, DictConfig):
        for name in parent:
            if str(name) == part:
                return name
    return None


def _find(cfg: DictConfig, override: Override) -> tuple[Config, Any]:
    """Return the container and the index of an existing key.

    Raises:
        RecipeError: it does not exist.
    """
    parent: Any = cfg
    *outer, last = override.key.split(".")
    for count, part in enumerate(outer):
        name = _position(parent, part)
        if name is None:
            error = _unknown_key(cfg, override, parent, ".".join(outer[:count]))
            raise error
        parent = _value(parent, name)
    name = _position(parent, last)
    if name is None:
        error = _unknown_key(cfg, override, parent, ".".join(outer))
        raise error
    return parent, name


def _unknown_key(cfg: DictConfig, override: Override, parent: Any, parent_key: str) -> RecipeError:
    if _is_sequence(parent):
        return override.error(f"{parent_key} is a list of {len(parent)} items, numbered from 0")
    reason = f"the recipe has no key {override.key!r}"
    nearest = nearest_key(cfg, override.key)
    if nearest is not None:
        reason += f"; did you mean {nearest!r}?"
    if override.kind == "set":
        reason += f" (+{override.key}={override.value_text} adds a new key)"
    return override.error(reason)


def nearest_key(cfg: DictConfig, key: str) -> str | None:
    """Return the key of a recipe that looks most like another, None if none does.

    Args:
        cfg: the recipe.
        key: what was typed.
    """
    known = [known for known in all_keys(cfg) if "_target_" not in known]
    leaf = key.rpartition(".")[2]

    def likeness(candidate: str) -> float:
        whole = difflib.SequenceMatcher(None, key, candidate).ratio()
        last = difflib.SequenceMatcher(None, leaf, candidate.rpartition(".")[2]).ratio()
        return max(whole, 0.95 * last)  # `max_itr` means `train.max_iter`

    best = max(known, key=likeness, default=None)
    return best if best is not None and likeness(best) > 0.6 else None


def _add(cfg: DictConfig, override: Override) -> None:
    parent: Any = cfg
    *outer, last = override.key.split(".")
    for part in outer:
        name = _position(parent, part)
        if name is None and isinstance(parent, DictConfig):
            parent[part] = DictConfig({}, flags={"allow_objects": True})
            name = part
        parent = None if name is None else _value(parent, name)
        if not isinstance(parent, DictConfig | ListConfig):
            raise override.error(f"{part!r} on the way holds a plain value, or is no list position")
    if _position(parent, last) is not None:
        raise override.error(f"{override.key} exists; write {override.key}={override.value_text}")
    if isinstance(parent, DictConfig):
        parent[last] = override.value
    elif last == str(len(parent)):
        parent.append(override.value)
    else:
        raise override.error(f"a new list item must have the number {len(parent)}, got {last}")


def _set(parent: Config, name: Any, override: Override, key: str, new: Any) -> None:
    """Replace one value; mappings are merged, key by existing key."""
    old = _value(parent, name)
    if isinstance(old, DictConfig) and isinstance(new, dict) and "_target_" not in new:
        for inner, value in new.items():
            position = _position(old, str(inner))
            if position is None:
                raise override.error(f"{key} has no key {inner!r}; +{key}.{inner}=... adds it")
            _set(old, position, override, f"{key}.{inner}", value)
        return
    if name == "_target_":
        _check_target(override, key, new)
        parent[name] = new
        return
    # A typing error is none of them.
    texts = _texts_of(parent, name, key) if isinstance(old, bool) else ()
    is_choice = isinstance(new, str) and new in texts
    _store(parent, name, new if is_choice else _fit(old, override, key, new))


def _texts_of(parent: Config, name: Any, key: str) -> tuple[Any, ...]:
    """Return the texts that a switch may be, beside true and false; none if unknown."""
    annotation = _CHOICES.get(key) or _annotation(parent, name)
    kinds = (annotation, *get_args(annotation))
    return tuple(text for kind in kinds if get_origin(kind) is Literal for text in get_args(kind))


def _annotation(call: Config, name: Any) -> Any:
    """Return the type of an argument of a call; None if unknown."""
    target = call.get("_target_") if isinstance(call, DictConfig) else None
    try:
        found: Any = locate(target) if isinstance(target, str) else target
        is_class = isinstance(found, type)
        return get_type_hints(found.__init__ if is_class else found).get(str(name))
    # Of foreign code: a name that is not there, or an annotation that nothing can evaluate.
    except Exception:
        return None


def _store(parent: Any, name: Any, value: Any) -> None:
    """Put a value into a container; a tuple is replaced as a whole."""
    if isinstance(parent, DictConfig | ListConfig):
        parent[name] = value
        return
    items = list(parent)
    items[name] = value
    _store(parent._get_parent(), parent._key(), tuple(items))


def _remove(parent: Any, name: Any) -> None:
    if isinstance(parent, DictConfig | ListConfig):
        del parent[name]
    else:
        rest = (item for index, item in enumerate(parent) if index != name)
        _store(parent._get_parent(), parent._key(), tuple(rest))


def _check_target(override: Override, key: str, new: Any) -> None:
    if not isinstance(new, str):
        raise override.error(f"{key} must be the dotted name of a class or function")
    try:
        found = locate(new)
    except (ImportError, AttributeError) as error:
        raise override.error(f"{key}: there is no {new}, or it cannot be imported") from error
    if not callable(found):
        raise override.error(f"{key}: {new} is not a class or function")


def _describe(value: Any) -> str:
    if isinstance(value, DictConfig):
        return "a call" if "_target_" in value else "a mapping"
    if _is_sequence(value):
        return "a list"
    kinds = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
    return kinds.get(type(value), "an object that only a recipe file can make")


def _fit(old: Any, override: Override, key: str, new: Any) -> Any:
    """Return the new value in the old one's type, or raise where that is no small change."""
    if new is None or old is None:
        return new
    if isinstance(old, str) and isinstance(new, int | float) and not isinstance(new, bool):
        # A folder named 2024 stays text; the value typed is kept to the letter.
        return override.value_text if new is override.value else str(new)
    fits = {
        bool: isinstance(new, bool),
        int: isinstance(new, int | float) and not isinstance(new, bool),
        float: isinstance(new, int | float) and not isinstance(new, bool),
        str: isinstance(new, str | bool),
        DictConfig: isinstance(new, dict) or _is_interpolation(new),
    }
    if _is_sequence(old) and isinstance(new, list):
        return new if isinstance(old, ListConfig) else tuple(new)
    if not (fits.get(type(old), False) or _is_interpolation(new)):
        raise override.error(f"{key} is {_describe(old)} and cannot become {new!r}")
    return new


def _is_interpolation(value: Any) -> bool:
    return isinstance(value, str) and "${" in value
