# SPDX-License-Identifier: Apache-2.0
"""The hidden convolutions of a head that all maps of a pyramid share.

Source: RetinaNet, arXiv 1708.02002, section 4; the layers of detectron2 ``meta_arch/retinanet.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import pairwise

from detectron2.layers import CycleBatchNormList, get_norm
from torch import nn

__all__ = ["dense_tower"]

_LOGGER = logging.getLogger(__name__)

_BATCH_NORMS = {"BN": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm}


def dense_tower(
    widths: Sequence[int], norm: str | Callable[[int], nn.Module], num_maps: int
) -> nn.Sequential:
    """Build 3x3 convolutions, each with a norm where there is one, and ReLU.

    Args:
        widths: channels of the maps, and after each convolution.
        norm: see ``get_norm``. With ``BN`` and ``SyncBN`` every map has statistics of its own; any
            other batch norm gets a warning.
        num_maps: that go through the tower, in turn.
    """
    kind = "" if norm in _BATCH_NORMS else type(get_norm(norm, 32)).__name__
    if "BatchNorm" in kind and "Frozen" not in kind:
        _LOGGER.warning(
            "norm=%r: all maps share the statistics of a %s, which differ between maps; 'BN' and "
            "'SyncBN' keep some for each",
            norm,
            kind,
        )
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers.append(nn.Conv2d(before, after, 3, padding=1))
        layer = _norm(norm, after, num_maps)
        layers += [nn.ReLU()] if layer is None else [layer, nn.ReLU()]
    return nn.Sequential(*layers)


def _norm(norm: str | Callable[[int], nn.Module], width: int, num_maps: int) -> nn.Module | None:
    """Return a norm that the maps share, or of a batch norm one for each map."""
    if norm in _BATCH_NORMS:
        return CycleBatchNormList(num_maps, _BATCH_NORMS[str(norm)], num_features=width)
    return get_norm(norm, width)
