# SPDX-License-Identifier: Apache-2.0
"""COCO with large-scale jitter, the data of the ViTDet recipes.

`data.image_size` is the one place of the image size, `data.{flip_prob,min_scale,max_scale}` of the
augmentation; `dataloader` alone, without `data`, has the same values. They are those of
Detectron2's `common/coco_loader_lsj.py`; so are the pixels, with `data.exact=true`.

Source: large-scale jitter: "Simple Copy-Paste", arXiv 2012.07177, section 3.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from omegaconf import OmegaConf

from vitdet_d2.data.fixed_size_crop import FixedSizeCrop
from vitdet_d2.data.loader import build_detection_train_loader
from vitdet_d2.data.mapper import DatasetMapper
from vitdet_d2.evaluation import COCOEvaluator

data = {
    "train_json": None,  # null: the registered data sets below, from $DETECTRON2_DATASETS
    "train_images": None,
    "val_json": None,
    "val_images": None,
    "keep_empty": False,  # whether images without objects are trained on
    "image_size": 1024,  # side of the square, in pixels
    "test_image_size": "${.image_size}",  # of the longer side of images at test
    "exact": False,  # whether training images are resized as Detectron2 does, bit for bit
    "flip_prob": 0.5,
    "min_scale": 0.1,  # of the jitter, relative to image_size
    "max_scale": 2.0,
}

# The recipe's choice; the value, where only this part of the recipe is loaded.
_CHOICES = {
    "image_size": "${oc.select:data.image_size, 1024}",
    "test_image_size": "${oc.select:data.test_image_size, ${.image_size}}",
    "exact": "${oc.select:data.exact, false}",
    "flip_prob": "${oc.select:data.flip_prob, 0.5}",
    "min_scale": "${oc.select:data.min_scale, 0.1}",
    "max_scale": "${oc.select:data.max_scale, 2.0}",
}
# Of `dataloader`, five levels above an augmentation's argument.
_SIZE, _TEST_SIZE = "${.....image_size}", "${.....test_image_size}"
_SCALES = {"min_scale": "${.....min_scale}", "max_scale": "${.....max_scale}"}

dataloader = OmegaConf.create(_CHOICES)

dataloader.train = L(build_detection_train_loader)(
    dataset=L(get_detection_dataset_dicts)(names="coco_2017_train"),
    mapper=L(DatasetMapper)(
        is_train=True,
        augmentations=[
            L(T.RandomFlip)(horizontal=True, prob="${.....flip_prob}"),
            L(T.ResizeScale)(**_SCALES, target_height=_SIZE, target_width=_SIZE),
            L(FixedSizeCrop)(crop_size=("${......image_size}", "${......image_size}"), pad=False),
        ],
        image_format="RGB",
        use_instance_mask=True,
        recompute_boxes=True,  # the crop cuts objects
        exact="${...exact}",
    ),
    total_batch_size=64,
    num_workers=4,
)

dataloader.test = L(build_detection_test_loader)(
    dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
    mapper=L(DatasetMapper)(
        is_train=False,
        augmentations=[L(T.ResizeShortestEdge)(short_edge_length=_TEST_SIZE, max_size=_TEST_SIZE)],
        image_format="${...train.mapper.image_format}",
    ),
    batch_size=1,  # of each process
    num_workers=4,
)

dataloader.evaluator = L(COCOEvaluator)(dataset_name="${..test.dataset.names}")
