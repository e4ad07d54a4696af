# SPDX-License-Identifier: Apache-2.0
"""The head of RetinaNet; import it from ``meta_arch.retinanet``, as from Detectron2.

Shapes: ``N`` images, ``A`` anchors per location, ``K`` classes.

Source: RetinaNet, arXiv 1708.02002, section 4; equals ``RetinaNetHead`` of detectron2
``meta_arch/retinanet.py``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from detectron2.config import configurable
from detectron2.layers import CycleBatchNormList, ShapeSpec, get_norm
from detectron2.modeling.anchor_generator import build_anchor_generator
from torch import Tensor, nn

__all__ = ["RetinaNetHead"]

_LOGGER = logging.getLogger(__name__)

_BATCH_NORMS = {"BN": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm}
_WEIGHT_DEVIATION = 0.01


class RetinaNetHead(nn.Module):
    """Two equal towers of 3x3 convolutions, one for classes and one for boxes, on every map."""

    @configurable
    def __init__(
        self,
        *,
        input_shape: Sequence[ShapeSpec],
        num_classes: int,
        num_anchors: int,
        conv_dims: Sequence[int],
        norm: str | Callable[[int], nn.Module] = "",
        prior_prob: float = 0.01,
    ) -> None:
        """Build the head; weights are normal with deviation 0.01, biases 0 but for the classes'.

        Args:
            input_shape: of each feature map; all have the same channels.
            num_classes: ``K``.
            num_anchors: ``A``.
            conv_dims: output channels of the hidden convolutions of each tower.
            norm: after each hidden convolution, see ``get_norm``; "" for none. With ``BN`` and
                ``SyncBN`` every map has statistics of its own.
            prior_prob: score of every class and anchor at the beginning. A higher one would let
                the many anchors without an object swamp the first steps.

        Raises:
            ValueError: no map, maps that differ in channels, or no hidden convolution.
        """
        super().__init__()
        channels = {shape.channels or 0 for shape in input_shape}
        if len(channels) != 1 or 0 in channels:
            raise ValueError(
                f"input_shape: expected maps with the same channels, got {sorted(channels)}"
            )
        if len(conv_dims) == 0 or min(conv_dims) <= 0:
            raise ValueError(f"conv_dims: expected one or more numbers > 0, got {list(conv_dims)}")
        if not 0.0 < prior_prob < 1.0:
            raise ValueError(f"prior_prob: expected a probability in (0, 1), got {prior_prob}")
        self._num_features = len(input_shape)
        widths = [channels.pop(), *conv_dims]
        make_norm = self._norm_of_levels(norm)
        self.cls_subnet = _tower(widths, make_norm)
        self.bbox_subnet = _tower(widths, make_norm)
        self.cls_score = nn.Conv2d(widths[-1], num_anchors * num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(widths[-1], num_anchors * 4, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=_WEIGHT_DEVIATION)
                assert layer.bias is not None, "the convolutions of the head have biases"
                nn.init.zeros_(layer.bias)
        assert self.cls_score.bias is not None, "the convolutions of the head have biases"
        nn.init.constant_(self.cls_score.bias, -math.log((1 - prior_prob) / prior_prob))

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Sequence[ShapeSpec]) -> dict[str, Any]:
        """Return the arguments that ``MODEL.RETINANET`` and the anchors hold.

        Args:
            cfg: the yacs configuration.
            input_shape: of each feature map.

        Raises:
            ValueError: the maps differ in anchors per location: one head serves them all.
        """
        node = cfg.MODEL.RETINANET
        counts = set(build_anchor_generator(cfg, input_shape).num_cell_anchors)
        if len(counts) != 1:
            raise ValueError(
                "MODEL.ANCHOR_GENERATOR: expected as many anchors per location on every map of "
                f"MODEL.RETINANET.IN_FEATURES, got {sorted(counts)}"
            )
        return {
            "input_shape": input_shape,
            "num_classes": node.NUM_CLASSES,
            "num_anchors": counts.pop(),
            "conv_dims": [input_shape[0].channels] * node.NUM_CONVS,
            "norm": node.NORM,
            "prior_prob": node.PRIOR_PROB,
        }

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Predict classes and boxes.

        Args:
            features: ``(N, C, H, W)`` maps, as many as ``input_shape`` has.

        Returns:
            For each map ``(N, A * K, H, W)`` logits and ``(N, A * 4, H, W)`` deltas.

        Raises:
            ValueError: another number of maps.
        """
        if len(features) != self._num_features:
            raise ValueError(f"features: expected {self._num_features} maps, got {len(features)}")
        logits = [self.cls_score(self.cls_subnet(feature)) for feature in features]
        deltas = [self.bbox_pred(self.bbox_subnet(feature)) for feature in features]
        return logits, deltas

    def _norm_of_levels(
        self, norm: str | Callable[[int], nn.Module]
    ) -> Callable[[int], nn.Module | None]:
        """Return what makes a norm that the maps share, or of a batch norm one for each map."""
        if norm in _BATCH_NORMS:
            batch_norm = _BATCH_NORMS[str(norm)]
            return lambda width: CycleBatchNormList(
                length=self._num_features, bn_class=batch_norm, num_features=width
            )
        kind = type(get_norm(norm, 32)).__name__
        if "BatchNorm" in kind and "Frozen" not in kind:
            _LOGGER.warning(
                "norm=%r: all maps share the statistics of a %s, which differ between maps; "
                "'BN' and 'SyncBN' keep some for each",
                norm,
                kind,
            )
        return lambda width: get_norm(norm, width)


def _tower(widths: Sequence[int], make_norm: Callable[[int], nn.Module | None]) -> nn.Sequential:
    """Convolution, norm where there is one, and ReLU, one after another."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers.append(nn.Conv2d(before, after, 3, padding=1))
        norm = make_norm(after)
        layers += [nn.ReLU()] if norm is None else [norm, nn.ReLU()]
    return nn.Sequential(*layers)
