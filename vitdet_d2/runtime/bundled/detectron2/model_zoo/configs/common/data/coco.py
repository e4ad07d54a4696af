# SPDX-License-Identifier: Apache-2.0
"""COCO instance segmentation. Values of Detectron2's ``common/data/coco.py``."""

from __future__ import annotations

from detectron2.config import LazyCall
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.transforms import RandomFlip, ResizeShortestEdge
from detectron2.evaluation import COCOEvaluator
from omegaconf import OmegaConf

_LONG_EDGE = 1333

dataloader = OmegaConf.create()

dataloader.train = LazyCall(build_detection_train_loader)(
    dataset=LazyCall(get_detection_dataset_dicts)(names="coco_2017_train"),
    mapper=LazyCall(DatasetMapper)(
        is_train=True,
        augmentations=[
            LazyCall(ResizeShortestEdge)(
                short_edge_length=tuple(range(640, 801, 32)),
                sample_style="choice",
                max_size=_LONG_EDGE,
            ),
            LazyCall(RandomFlip)(horizontal=True),
        ],
        image_format="BGR",
        use_instance_mask=True,
    ),
    total_batch_size=16,
    num_workers=4,
)

dataloader.test = LazyCall(build_detection_test_loader)(
    dataset=LazyCall(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
    mapper=LazyCall(DatasetMapper)(
        is_train=False,
        augmentations=[LazyCall(ResizeShortestEdge)(short_edge_length=800, max_size=_LONG_EDGE)],
        image_format="${...train.mapper.image_format}",
    ),
    num_workers=4,
)

dataloader.evaluator = LazyCall(COCOEvaluator)(dataset_name="${..test.dataset.names}")
