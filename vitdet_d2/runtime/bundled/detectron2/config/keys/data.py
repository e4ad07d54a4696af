# SPDX-License-Identifier: Apache-2.0
"""What data sets, mappers and loaders read."""

from __future__ import annotations

from typing import Any

INPUT: dict[str, Any] = {
    "FORMAT": "BGR",  # order of the channels that the model gets; any mode of Pillow, or BGR
    "MASK_FORMAT": "polygon",  # or "bitmask"
    # ResizeShortestEdge; one side, several, or with "range" two ends, in pixels.
    "MIN_SIZE_TRAIN": (800,),
    "MIN_SIZE_TRAIN_SAMPLING": "choice",
    "MAX_SIZE_TRAIN": 1333,
    "MIN_SIZE_TEST": 800,  # 0: images keep their size
    "MAX_SIZE_TEST": 1333,
    "RANDOM_FLIP": "horizontal",  # or "vertical", "none"
    # RandomCrop, before the resize; SIZE is a share of the image or pixels, as TYPE says.
    "CROP": {"ENABLED": False, "TYPE": "relative_range", "SIZE": [0.9, 0.9]},
}

DATASETS: dict[str, Any] = {
    # Registered names; those for training are joined, those for testing scored one by one.
    "TRAIN": (),
    "TEST": (),
    # Box proposals from files, which only MODEL.LOAD_PROPOSALS reads (not bundled).
    "PROPOSAL_FILES_TRAIN": (),
    "PROPOSAL_FILES_TEST": (),
    "PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 2000,
    "PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
}

DATALOADER: dict[str, Any] = {
    "NUM_WORKERS": 4,  # processes per training process
    "ASPECT_RATIO_GROUPING": True,  # wide images with wide ones: less padding
    "FILTER_EMPTY_ANNOTATIONS": True,  # leave out training images with nothing to learn from
    "SAMPLER_TRAIN": "TrainingSampler",  # or "RepeatFactorTrainingSampler"
    # A class in fewer than this share of the images is repeated, by the root of the ratio or not.
    "REPEAT_THRESHOLD": 0.0,
    "REPEAT_SQRT": True,
}
