# SPDX-License-Identifier: Apache-2.0
"""Statistics by which images were normalised in pre-training, and which detection must use too.

Values are for RGB channels from 0 to 255, as Detectron2 has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Mean and standard deviation of each channel.

    Attributes:
        name: for reports.
        mean: red, green, blue.
        std: likewise.
    """

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def is_near(self, mean: Sequence[float], std: Sequence[float]) -> bool:
        """Whether other statistics are the same, but for rounding.

        Args:
            mean: red, green, blue.
            std: likewise.
        """
        pairs = zip((*self.mean, *self.std), (*mean, *std), strict=True)
        return all(abs(ours - theirs) < 0.01 for ours, theirs in pairs)


def _of_unit_range(
    name: str, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Normalisation:
    """From statistics of channels from 0 to 1, as papers and configurations give them."""
    r, g, b = (255 * value for value in mean)
    rs, gs, bs = (255 * value for value in std)
    return Normalisation(name=name, mean=(r, g, b), std=(rs, gs, bs))


# The digits that Detectron2's ViTDet recipes have, which are 255 times (0.485, 0.456, 0.406) and
# (0.229, 0.224, 0.225).
IMAGENET = Normalisation(
    name="ImageNet", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)
)
HALF = _of_unit_range("0.5", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = _of_unit_range(
    "CLIP", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
)
SATELLITE = _of_unit_range("SAT-493M", (0.430, 0.411, 0.296), (0.213, 0.156, 0.143))
