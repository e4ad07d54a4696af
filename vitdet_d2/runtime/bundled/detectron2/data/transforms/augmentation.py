# SPDX-License-Identifier: Apache-2.0
"""The protocol of augmentations: look at an input, decide on a transform, apply it.

An augmentation is a policy, often random; the transform that it returns is deterministic, so that
it can be applied to everything else that belongs to the image (masks, keypoints, ...).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList
from numpy.typing import NDArray

from vitdet_d2.errors import ArgumentError

__all__ = [
    "AugInput",
    "Augmentation",
    "AugmentationList",
    "StandardAugInput",
    "TransformGen",
    "apply_augmentations",
    "apply_transform_gens",
]

Array = NDArray[Any]


class Augmentation:
    """A policy that turns an input into a transform. Subclasses write ``get_transform``.

    ``get_transform`` takes fixed positional arguments. A single one receives the image, whatever
    its name; several receive the attributes of the input that have their names. ``input_args``
    overrides the names.
    """

    input_args: tuple[str, ...] | None = None

    def _init(self, params: Mapping[str, Any] | None = None) -> None:
        """Set attributes from ``locals()`` of a constructor: a convenience for subclasses."""
        for name, value in (params or {}).items():
            if name != "self" and not name.startswith("_"):
                setattr(self, name, value)

    def get_transform(self, *args: Any) -> Transform:
        """Decide on a transform.

        Args:
            *args: the image, or what ``input_args`` names.

        Raises:
            NotImplementedError: the subclass does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no get_transform")

    def __call__(self, aug_input: AugInput) -> Transform:
        """Transform ``aug_input`` in place and return the transform.

        Args:
            aug_input: has the attributes that ``get_transform`` asks for, and ``transform``.

        Raises:
            TypeError: ``get_transform`` returned something else than a transform.
        """
        args = [getattr(aug_input, name) for name in self._argument_names()]
        transform = self.get_transform(*args)
        if not isinstance(transform, Transform):
            raise TypeError(
                f"{type(self).__name__}.get_transform must return a Transform, "
                f"got {type(transform).__name__}"
            )
        aug_input.transform(transform)
        return transform

    def _argument_names(self) -> tuple[str, ...]:
        if self.input_args is None:
            parameters = inspect.signature(self.get_transform).parameters.values()
            if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
                raise TypeError(
                    f"{type(self).__name__}.get_transform takes a variable number of arguments; "
                    "name them one by one, set input_args, or define __call__"
                )
            names = tuple(p.name for p in parameters)
            self.input_args = ("image",) if len(names) == 1 else names
        return self.input_args

    def _rand_range(
        self, low: float = 1.0, high: float | None = None, size: Sequence[int] | None = None
    ) -> Any:
        """Draw uniformly from ``[low, high)``, or from ``[0, low)``, with numpy's global state."""
        if high is None:
            low, high = 0, low
        return np.random.uniform(low, high, [] if size is None else size)

    def __repr__(self) -> str:
        """Show the constructor's arguments that differ from their defaults."""
        shown = []
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = getattr(self, name, parameter.default)
            if value is not parameter.default:
                shown.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    __str__ = __repr__


class _FixedTransform(Augmentation):
    """A transform in the place of an augmentation."""

    def __init__(self, transform: Transform) -> None:
        """Keep the transform.

        Args:
            transform: returned for every input.
        """
        self.tfm = transform

    def get_transform(self, *args: Any) -> Transform:  # noqa: ARG002
        return self.tfm

    def _argument_names(self) -> tuple[str, ...]:
        return ()

    def __repr__(self) -> str:
        return repr(self.tfm)

    __str__ = __repr__


def _transform_to_aug(item: Transform | Augmentation) -> Augmentation:
    """Return an augmentation as it is, and a transform as one that always decides on it.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(item, Augmentation):
        return item
    if isinstance(item, Transform):
        return _FixedTransform(item)
    raise TypeError(f"expected an Augmentation or a Transform, got {type(item).__name__}: {item!r}")


class AugmentationList(Augmentation):
    """Augmentations in a row, each seeing what the ones before it made."""

    def __init__(self, augs: Sequence[Augmentation | Transform]) -> None:
        """Keep the augmentations.

        Args:
            augs: applied first to last.
        """
        self.augs = [_transform_to_aug(item) for item in augs]

    def __call__(self, aug_input: AugInput) -> TransformList:
        """Apply all and return their transforms."""
        return TransformList([augmentation(aug_input) for augmentation in self.augs])

    def __repr__(self) -> str:
        return f"{type(self).__name__}[{', '.join(map(repr, self.augs))}]"

    __str__ = __repr__


class AugInput:
    """What augmentations look at and change: an image, and boxes and labels if there are any."""

    def __init__(
        self, image: Array, *, boxes: Array | None = None, sem_seg: Array | None = None
    ) -> None:
        """Check the image.

        Args:
            image: ``(H, W)`` or ``(H, W, C)``, uint8 in 0-255 or floating point.
            boxes: ``(N, 4)`` floating point, XYXY in pixels.
            sem_seg: ``(H, W)`` uint8 labels.

        Raises:
            TypeError: the image is no array of an accepted type.
            ArgumentError: the image has neither two nor three dimensions.
        """
        if not isinstance(image, np.ndarray):
            raise TypeError(f"image must be a numpy array, got {type(image).__name__}")
        if np.issubdtype(image.dtype, np.integer) and image.dtype != np.uint8:
            raise TypeError(f"image must be uint8 or floating point, got {image.dtype}")
        if image.ndim not in (2, 3):
            raise ArgumentError(f"image must be (H, W) or (H, W, C), got shape {image.shape}")
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Replace everything by its transformed version."""
        boxes, sem_seg = self.boxes, self.sem_seg
        self.image = tfm.apply_image(self.image)
        self.boxes = None if boxes is None else tfm.apply_box(boxes)
        self.sem_seg = None if sem_seg is None else tfm.apply_segmentation(sem_seg)

    def apply_augmentations(
        self, augmentations: Sequence[Augmentation | Transform]
    ) -> TransformList:
        """Apply augmentations in a row and return their transforms."""
        return AugmentationList(augmentations)(self)


def apply_augmentations(
    augmentations: Sequence[Augmentation | Transform], inputs: Array | AugInput
) -> tuple[Array | AugInput, TransformList]:
    """Apply augmentations in a row.

    Args:
        augmentations: first to last.
        inputs: an image, or an :class:`AugInput`, which is changed in place.

    Returns:
        The transformed image (or the input), and the transforms.
    """
    if isinstance(inputs, np.ndarray):
        aug_input = AugInput(inputs)
        transforms = aug_input.apply_augmentations(augmentations)
        return aug_input.image, transforms
    return inputs, inputs.apply_augmentations(augmentations)


# Older names that other projects still use.
apply_transform_gens = apply_augmentations
TransformGen = Augmentation
StandardAugInput = AugInput
