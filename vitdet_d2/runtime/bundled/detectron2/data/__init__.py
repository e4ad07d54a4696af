# SPDX-License-Identifier: Apache-2.0
"""Data sets, transforms and loaders.

Vocabulary: a *record* is one image as a plain dictionary (``file_name``, ``height``, ``width``,
``image_id``, ``annotations``); a *sample* is what a mapper makes of it for the model.
"""

from __future__ import annotations

from detectron2.data import transforms  # isort: skip  (the other modules use it)
from detectron2.data.build import (
    build_batch_data_loader,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
    print_instances_class_histogram,
)
from detectron2.data.catalog import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data.common import (
    AspectRatioGroupedDataset,
    DatasetFromList,
    MapDataset,
    ToIterableDataset,
)
from detectron2.data.dataset_mapper import DatasetMapper

from detectron2.data import datasets, samplers  # isort: skip  (registers the standard data sets)

from vitdet_d2.runtime.absent import absent_attribute

__all__ = [
    "AspectRatioGroupedDataset",
    "DatasetCatalog",
    "DatasetFromList",
    "DatasetMapper",
    "MapDataset",
    "Metadata",
    "MetadataCatalog",
    "ToIterableDataset",
    "build_batch_data_loader",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "datasets",
    "get_detection_dataset_dicts",
    "print_instances_class_histogram",
    "samplers",
    "transforms",
]

__getattr__ = absent_attribute(__name__)
