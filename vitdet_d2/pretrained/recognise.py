# SPDX-License-Identifier: Apache-2.0
"""Which source a file is of: told by the user, or seen in its keys and shapes."""

from __future__ import annotations

from vitdet_d2.backbones.option_checks import nearest
from vitdet_d2.errors import RecipeError, UserError, WeightsError
from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.described import described_source
from vitdet_d2.pretrained.encoder import Encoder, convert, named_after
from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources import SOURCES


def encoder_of(path: str, file: Unwrapped, source: str | None = None) -> Encoder:
    """Recognise an encoder, and bring it to our names.

    Args:
        path: of the file, for messages.
        file: its unwrapped content.
        source: its name, where the user knows it.

    Raises:
        RecipeError: there is no source of that name.
        WeightsError: the file is of no source, of another one, or cannot be used.
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
            f"{path}: it has the names of a ViT's tensors, but not their shapes ({reason[:200]}); "
            "get the file again, and compare its size and checksum with the source's"
        ) from error


def _encoder_of(path: str, file: Unwrapped, source: str | None) -> Encoder:
    layout = described_source(file) or next((s for s in SOURCES if s.matches(file)), None)
    if source is None:
        if layout is None:
            raise WeightsError(f"{path}: of no known source. {_described(file)}")
        return convert(path, file, layout, f"recognised by {layout.evidence}")
    origin = named_source(source)
    if layout is not None and layout.name == origin.name:
        return convert(path, file, layout, "as named")
    if layout is None or origin.matches(file):
        return convert(path, file, origin, "as named")
    if layout.normalisation_of(file) is not None and not layout.is_shared:
        raise WeightsError(
            f"{path}: named {origin.name}, but its keys are those of {layout.title}; name it "
            f"{layout.name}, or leave the name out"
        )
    return convert(path, file, named_after(layout, origin), f"as named; keys of {layout.title}")


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
        "ViT (pos_embed, patch_embed.proj.weight, blocks.0.norm1.weight, ...)"
    )
