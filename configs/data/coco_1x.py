# SPDX-License-Identifier: Apache-2.0
"""COCO at a shorter side of 800 pixels and a longer side of at most 1333, randomly mirrored.

The data of "1x" recipes, for detectors that take images of any shape. Wide images are batched with
wide ones, tall with tall ones. `data.short_edge_length` and `data.max_size` are the one place of
the image size; `dataloader` alone, without `data`, has the same values.

Source: the data of PVT's detectors, arXiv 2102.12122, section 5.2 (one scale in training and test).
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from omegaconf import OmegaConf

from vitdet_d2.data.loader import build_detection_train_loader
from vitdet_d2.data.mapper import DatasetMapper
from vitdet_d2.evaluation import COCOEvaluator

data = {
    "train_json": None,  # null: the registered data sets below, from $DETECTRON2_DATASETS
    "train_images": None,
    "val_json": None,
    "val_images": None,
    "keep_empty": False,  # whether images without objects are trained on
    "short_edge_length": 800,  # of images, in pixels
    "max_size": 1333,  # of the longer side: where it would be longer, the shorter one is less
    "exact": False,  # whether training images are resized as Detectron2 does, bit for bit
    "flip_prob": 0.5,
}

# The recipe's choice; the number, where only this part of the recipe is loaded.
dataloader = OmegaConf.create(
    {
        "short_edge_length": "${oc.select:data.short_edge_length, 800}",
        "max_size": "${oc.select:data.max_size, 1333}",
        "exact": "${oc.select:data.exact, false}",
        "flip_prob": "${oc.select:data.flip_prob, 0.5}",
    }
)

# Of `dataloader`, five levels above an augmentation's argument.
_resize = L(T.ResizeShortestEdge)(
    short_edge_length="${.....short_edge_length}", max_size="${.....max_size}"
)

dataloader.train = L(build_detection_train_loader)(
    dataset=L(get_detection_dataset_dicts)(names="coco_2017_train"),
    mapper=L(DatasetMapper)(
        is_train=True,
        augmentations=[
            _resize,
            L(T.RandomFlip)(horizontal=True, prob="${.....flip_prob}"),
        ],
        image_format="RGB",
        use_instance_mask=True,
        exact="${...exact}",
    ),
    total_batch_size=16,
    aspect_ratio_grouping=True,
    num_workers=4,
)

dataloader.test = L(build_detection_test_loader)(
    dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
    mapper=L(DatasetMapper)(
        is_train=False,
        augmentations=[_resize],
        image_format="${...train.mapper.image_format}",
    ),
    batch_size=1,  # of each process
    num_workers=4,
)

dataloader.evaluator = L(COCOEvaluator)(dataset_name="${..test.dataset.names}")
