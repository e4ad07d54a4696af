# SPDX-License-Identifier: Apache-2.0
"""How often classes occur, for losses that sample them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import Tensor

from vitdet_d2.data.lvis import get_lvis_instances_meta
from vitdet_d2.errors import DataError

logger = logging.getLogger(__name__)


class FederatedClassWeights:
    """Weights by which the federated loss draws classes: images with the class, to a power.

    They come from the data set's annotation file. A model can be built, and used, without it: all
    weights are 1 then, until a checkpoint brings its own.

    Source: detectron2 ``data.detection_utils.get_fed_loss_cls_weights``; "Probabilistic two-stage
        detection", arXiv 2103.07461, section 4 (the federated loss with the power 0.5).
    """

    def __init__(
        self, *, dataset_names: str | Sequence[str], freq_weight_power: float, num_classes: int
    ) -> None:
        """Keep what to look up when called.

        Args:
            dataset_names: registered training sets in LVIS's format.
            freq_weight_power: of the number of images.
            num_classes: of the model.
        """
        self.dataset_names = [dataset_names] if isinstance(dataset_names, str) else dataset_names
        self.freq_weight_power = freq_weight_power
        self.num_classes = num_classes

    def __call__(self) -> Tensor:
        """Return the weights, ``(num_classes,)`` float32, in the order of the classes."""
        try:
            counts = class_image_counts(self.dataset_names)
            reason = f"{len(counts)} classes"
        except DataError as error:
            counts, reason = [], str(error)
        if len(counts) != self.num_classes:
            logger.warning(
                "no frequencies of %d classes for the federated loss (%s): it draws all classes "
                "alike, unless a checkpoint brings them; only training cares",
                self.num_classes,
                reason,
            )
            return torch.ones(self.num_classes)
        return torch.tensor(counts, dtype=torch.float32) ** self.freq_weight_power


def class_image_counts(dataset_names: Sequence[str]) -> list[int]:
    """Return in how many training images each class is.

    Args:
        dataset_names: registered data sets in LVIS's format. Parts of one data set say the same,
            which is taken; the numbers of different ones are added.

    Returns:
        One number per class, in the order of the category ids.

    Raises:
        DataError: a data set is not registered or has no file, or they differ in the classes.
    """
    counts = [_image_counts(name) for name in dataset_names]
    if any(len(other) != len(counts[0]) for other in counts):
        raise DataError(
            f"the data sets {', '.join(dataset_names)} have {[len(c) for c in counts]} classes; "
            "give all the same ones"
        )
    if all(other == counts[0] for other in counts):
        return counts[0]
    return [sum(numbers) for numbers in zip(*counts, strict=True)]


def _image_counts(name: str) -> list[int]:
    if name not in DatasetCatalog.list():
        raise DataError(f"data set {name!r} is not registered")
    known = MetadataCatalog.get(name).get("class_image_count")
    if known is None:
        known = get_lvis_instances_meta(name)["class_image_count"]
    return [entry["image_count"] for entry in sorted(known, key=lambda entry: entry["id"])]
