# SPDX-License-Identifier: Apache-2.0
"""Weights of the classes in the federated loss, from how many images have them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from detectron2.data.catalog import MetadataCatalog

from vitdet_d2.errors import DataError

__all__ = ["get_fed_loss_cls_weights"]

logger = logging.getLogger(__name__)

# Classes of the official files.
_LVIS_CLASSES = {"lvis_v1_": 1203, "lvis_v0.5_": 1230}


def get_fed_loss_cls_weights(
    dataset_names: str | Sequence[str], freq_weight_power: float = 1.0
) -> torch.Tensor:
    """Return the weights by which the federated loss draws classes: images with them, to a power.

    Args:
        dataset_names: data sets in LVIS's format that agree on the numbers. Without the annotation
            file of an official one, all weights are 1, so that a model can be built and used.
        freq_weight_power: of the number of images.

    Returns:
        ``(K,)`` float32, in the order of the category ids.

    Raises:
        DataError: there is no annotation file of another data set.
        ValueError: the data sets differ in the numbers.
    """
    names = [dataset_names] if isinstance(dataset_names, str) else list(dataset_names)
    numbers = [_image_counts(name) for name in names]
    for name, other in zip(names, numbers, strict=True):
        if other != numbers[0]:
            raise ValueError(f"data sets {names[0]!r} and {name!r} differ in class_image_count")
    return torch.tensor(numbers[0], dtype=torch.float32) ** freq_weight_power


def _image_counts(name: str) -> list[int]:
    # Not before it is used: it stands on the catalogues, and imports upwards.
    from detectron2.data.datasets import lvis

    entries = MetadataCatalog.get(name).get("class_image_count")
    if entries is None:
        try:
            entries = lvis.get_lvis_instances_meta(name)["class_image_count"]
        except DataError as error:
            num_classes = next((n for k, n in _LVIS_CLASSES.items() if name.startswith(k)), None)
            if num_classes is None:
                raise
            logger.warning("%s; until then the federated loss draws all classes alike", error)
            return [1] * num_classes
    return [entry["image_count"] for entry in sorted(entries, key=lambda entry: entry["id"])]
