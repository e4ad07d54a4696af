# SPDX-License-Identifier: Apache-2.0
"""An encoder in our names, with the facts that its source adds.

Canonical names are those of our backbones of its family. Of a plain ViT, two kinds of tensors are
still as in the file, and wait for the model that they are fitted to: ``pos_embed`` with its prefix
rows, and BEiT's tables (``blocks.N.attn.relative_position_bias_table``, or one for all blocks under
``rel_pos_bias.relative_position_bias_table``) with their three rows for the class token.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.family import PLAIN_VIT
from vitdet_d2.pretrained.key_table import matches_any, rename
from vitdet_d2.pretrained.normalisation import Normalisation
from vitdet_d2.pretrained.plausible import implausible
from vitdet_d2.pretrained.source import Needs, Source, no_needs

STEM = PLAIN_VIT.stem
POSITIONS = "pos_embed"
SHARED_BIAS = "rel_pos_bias.relative_position_bias_table"
BLOCK_BIAS = "attn.relative_position_bias_table"

_BLOCK = re.compile(r"blocks\.(\d{1,4})\.")


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """The tensors of one encoder.

    Prefix, heads, biases and patches are of plain ViTs; a pyramid's have nothing to tell.

    Attributes:
        source: it is of.
        how: in what way the source was recognised, in words.
        tensors: by canonical name.
        num_prefix: rows of ``pos_embed`` before those of the patches.
        needs: what no tensor shows.
        num_heads: attention heads of this width; None: unknown.
        normalisation: of the images; None: unknown.
        dropped: keys of the file that detection has no use for.
        zero_key_biases: canonical names of biases whose keys' part is zero.
        notes: what the user should know.
        patch_is_final: why the patch kernel must not be resized; None: it may.
    """

    source: Source
    how: str
    tensors: Mapping[str, Tensor]
    num_prefix: int
    needs: Needs
    num_heads: int | None
    normalisation: Normalisation | None
    dropped: tuple[str, ...]
    zero_key_biases: tuple[str, ...]
    notes: tuple[str, ...]
    patch_is_final: str | None = None

    @property
    def width(self) -> int:
        """Channels of a token of a plain ViT."""
        return self.tensors[STEM].shape[0]

    @property
    def patch_size(self) -> int:
        """Side of a patch of a plain ViT in pixels."""
        return self.tensors[STEM].shape[-1]

    @property
    def depth(self) -> int:
        """Number of blocks of a plain ViT."""
        return 1 + max((int(n) for name in self.tensors for n in _BLOCK.findall(name)), default=-1)


def convert(path: str, file: Unwrapped, source: Source, how: str) -> Encoder:
    """Bring an encoder to our names.

    Args:
        path: of the file, for messages.
        file: the unwrapped content.
        source: it is of.
        how: as of `Encoder`.

    Raises:
        WeightsError: the source's files cannot be used, keys are unknown, or parts are missing.
    """
    reason = source.refuse(file)
    if reason is not None:
        raise WeightsError(f"{path}: {source.title}: {reason}")
    renamed = rename(source.prepare(file.state), source.table_of(file))
    unknown = [*renamed.unknown, *(k for k in file.beside if not matches_any(k, source.beside))]
    if unknown:
        raise WeightsError(
            f"{path}: read as {source.title} ({how}), which has no such keys: "
            f"{_listed(unknown)}. Every key of a file must be known, so that nothing is lost "
            "unseen; name the right source, or remove these keys where the file was made"
        )
    tensors, family = renamed.tensors, source.family
    if family.stem not in tensors:
        raise WeightsError(f"{path}: read as {source.title} ({how}): no patch embedding in it")
    problems = renamed.problems or implausible(tensors, family)
    if problems:
        raise WeightsError(f"{path}: read as {source.title} ({how}): {'; '.join(problems[:5])}")
    width = tensors[family.stem].shape[0]
    return Encoder(
        source=source,
        how=how,
        tensors=tensors,
        num_prefix=source.num_prefix(file),
        needs=source.needs(file),
        num_heads=source.heads_of(file).get(width),
        normalisation=source.normalisation_of(file),
        dropped=(*renamed.dropped, *file.beside),
        zero_key_biases=tuple(renamed.zero_key_biases),
        notes=source.notes(file),
        patch_is_final=source.patch_is_final(file),
    )


def named_after(layout: Source, origin: Source) -> Source:
    """Return a layout that several sources share, as one of them.

    Facts that a source reads off the keys of its own layout are not asked for in another one.

    Args:
        layout: how the keys are.
        origin: where they come from; gives the name, the image statistics, the heads, and whether
            the patch kernel may be resized.
    """
    statistics, heads = origin.normalisation, origin.heads
    return dataclasses.replace(
        layout,
        name=origin.name,
        title=origin.title,
        normalisation=layout.normalisation if callable(statistics) else statistics,
        heads=layout.heads if callable(heads) else heads,
        needs=origin.needs if layout.needs is no_needs else layout.needs,
        patch_is_final=origin.patch_is_final,
    )


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown
