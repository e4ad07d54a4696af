# SPDX-License-Identifier: Apache-2.0
"""Which source a file is of: told by the user, or seen in its keys and shapes."""

from __future__ import annotations

import dataclasses

from vitdet_d2.backbones.option_checks import nearest
from vitdet_d2.errors import RecipeError, UserError, WeightsError
from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.described import described_source
from vitdet_d2.pretrained.encoder import Encoder, convert, named_after
from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources import SOURCES
from vitdet_d2.pretrained.sources.unsupported import reason_against

_ENTRY_IS_IGNORED = (
    "what its conversion noted in the file is damaged, and is not used: the source is named"
)


def encoder_of(path: str, file: Unwrapped, source: str | None = None) -> Encoder:
    """Recognise an encoder, and bring it to our names.

    Args:
        path: of the file, for messages.
        file: its unwrapped content.
        source: its name, where the user knows it.

    Raises:
        RecipeError: there is no source of that name.
        WeightsError: the file is of no source, of another one, or cannot be used; or what a
            conversion noted in it is damaged, and no source is named.
        UserError: one of these.
    """
    try:
        return _encoder_of(path, file, source)
    except UserError:
        raise
    # Key tables take shapes for granted: those of a damaged or hostile file can fail in any way.
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise WeightsError(
            f"{path}: it has the names of an encoder's tensors, but not their shapes "
            f"({reason[:200]}); get the file again, and compare its size and checksum with the "
            "source's"
        ) from error


def _encoder_of(path: str, file: Unwrapped, source: str | None) -> Encoder:
    try:
        described = described_source(path, file)
    except WeightsError:
        if source is None:
            raise
        encoder = _encoder_of(path, dataclasses.replace(file, entry=None), source)
        return dataclasses.replace(encoder, notes=(*encoder.notes, _ENTRY_IS_IGNORED))
    reason = None if described else reason_against(file)
    if reason is not None:
        raise WeightsError(f"{path}: {reason}")
    if source is None:
        found = described or next((one for one in SOURCES if one.matches(file)), None)
        if found is None:
            raise WeightsError(f"{path}: of no known source. {_described(file)}")
        return convert(path, file, found, f"recognised by {found.evidence}")
    return _encoder_as_named(path, file, source, described)


def _encoder_as_named(path: str, file: Unwrapped, source: str, described: Source | None) -> Encoder:
    """Bring an encoder to our names in that of its layouts that comes from where the user says.

    Raises:
        WeightsError: none does.
    """
    origin = named_source(source)
    layouts = [described] if described else [one for one in SOURCES if one.matches(file)]
    if not layouts:
        return convert(path, file, origin, "as named")
    for layout in layouts:
        if layout.name == origin.name:
            return convert(path, file, layout, "as named")
    # Layouts with the same keys differ in their facts alone.
    for layout in (one for one in layouts if one.table == layouts[0].table):
        if origin.name in _origins_of(layout):
            how = f"as named; keys of {layout.title}"
            return convert(path, file, named_after(layout, origin), how)
    raise WeightsError(
        f"{path}: named {origin.name}, but its keys are those of {layouts[0].title}; name it "
        f"{layouts[0].name}, or leave the name out"
    )


def _origins_of(layout: Source) -> set[str]:
    """Return the names that a layout may go by; a converted file's are those of its source."""
    if any(layout is source for source in SOURCES):
        return set(layout.origins)
    return {name for source in SOURCES if source.name == layout.name for name in source.origins}


def named_source(name: str) -> Source:
    """Return a source by name.

    Raises:
        RecipeError: there is none.
    """
    found = {source.name: source for source in SOURCES}
    if name not in found:
        raise RecipeError(
            f"source: expected one of {', '.join(sorted(found))}, got {name!r}"
            f"{nearest(name, found)}"
        )
    return found[name]


def _described(file: Unwrapped) -> str:
    names = list(file.state)
    inside = f" below {' '.join(map(repr, file.wrappers))}" if file.wrappers else ""
    return (
        f"It has {len(names)} tensors{inside}, such as {', '.join(names[:4])}; name its source if "
        "it has one of those listed in docs/pretrained.md, or rename the keys to those of a plain "
        "ViT (pos_embed, patch_embed.proj.weight, blocks.0.norm1.weight, ...) or of a pyramid "
        "transformer (patch_embed1.proj.weight, block1.0.norm1.weight, ...)"
    )
