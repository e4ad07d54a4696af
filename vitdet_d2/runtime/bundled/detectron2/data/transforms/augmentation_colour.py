# SPDX-License-Identifier: Apache-2.0
"""Augmentations that change colours, and move nothing.

All draw from numpy's global generator, in Detectron2's order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.data.transforms.augmentation import Augmentation
from fvcore.transforms.transform import BlendTransform, Transform
from numpy.typing import NDArray

from vitdet_d2.errors import ArgumentError

__all__ = ["RandomBrightness", "RandomContrast", "RandomLighting", "RandomSaturation"]

Array = NDArray[Any]

# Principal components of the RGB values (in 0-1) of ImageNet's pixels: columns, and the standard
# deviations along them. Source: AlexNet's fancy PCA; the numbers are those of fb.resnet.torch.
_COMPONENTS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
_DEVIATIONS = np.array([0.2175, 0.0188, 0.0045])


class _RandomBlend(Augmentation):
    """Mix the image with another one by a random weight; a weight of 1 keeps the image."""

    def __init__(self, intensity_min: float, intensity_max: float) -> None:
        """Keep the weights.

        Args:
            intensity_min: smallest weight of the image.
            intensity_max: largest weight of the image; above 1 it is exaggerated.
        """
        self.intensity_min = intensity_min
        self.intensity_max = intensity_max

    def _other(self, image: Array) -> Any:
        """Return what to mix with."""
        raise NotImplementedError

    def get_transform(self, image: Array) -> Transform:
        """Draw a weight."""
        weight = np.random.uniform(self.intensity_min, self.intensity_max)
        return BlendTransform(
            src_image=self._other(image), src_weight=1 - weight, dst_weight=weight
        )


class RandomContrast(_RandomBlend):
    """Less or more contrast: mix with the mean grey."""

    def _other(self, image: Array) -> Any:
        return image.mean()


class RandomBrightness(_RandomBlend):
    """Darker or brighter: mix with black."""

    def _other(self, image: Array) -> Any:  # noqa: ARG002
        return 0


class RandomSaturation(_RandomBlend):
    """Paler or more colourful RGB images: mix with their grey version."""

    def _other(self, image: Array) -> Any:
        if image.shape[-1] != 3:
            raise ArgumentError(f"RandomSaturation needs an RGB image, got shape {image.shape}")
        # Rec. 601 luma
        return image.dot([0.299, 0.587, 0.114])[:, :, np.newaxis]


class RandomLighting(Augmentation):
    """Add one random colour to all pixels of an RGB image, along ImageNet's principal components.

    The colour is for pixels in 0-1, and is added as it is whatever their range: on 0-255 it is next
    to nothing, as in Detectron2.
    """

    def __init__(self, scale: float) -> None:
        """Keep the strength.

        Args:
            scale: standard deviation of the weights of the components.
        """
        self.scale = scale

    def get_transform(self, image: Array) -> Transform:
        """Draw three weights.

        Raises:
            ArgumentError: the image has not three channels.
        """
        if image.shape[-1] != 3:
            raise ArgumentError(f"RandomLighting needs an RGB image, got shape {image.shape}")
        colour = _COMPONENTS @ (np.random.normal(scale=self.scale, size=3) * _DEVIATIONS)
        return BlendTransform(src_image=colour, src_weight=1.0, dst_weight=1.0)
