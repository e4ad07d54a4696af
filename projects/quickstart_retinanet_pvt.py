# SPDX-License-Identifier: Apache-2.0
"""RetinaNet on PVT-Tiny on handwritten digits: minutes on two CPU cores, from scratch.

Source: PVT, arXiv 2102.12122, its Tiny size whole; narrow heads and settings of our own.
Data: as in `quickstart` at 128 px: 10 classes, 200 held-out images of digits never trained on.
Measured here: see benchmarks/pvt_digits_cpu_202611.md.
Command:
    python train_net.py --config-file projects/quickstart_retinanet_pvt.py

What is small: images, 64 channels in pyramid and head, three levels with two sizes of anchors each.
Their strides are 4 to 16, not 8 to 128, since digits are small.
"""

from detectron2.layers import ShapeSpec

from ..configs.data.coco_1x_boxes import dataloader as _boxes
from .quickstart_mask_rcnn_pvt import data, dataloader, lr_multiplier, optimizer, train
from .retinanet_pvt_tiny import model

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

dataloader.train.mapper.use_instance_mask = _boxes.train.mapper.use_instance_mask
dataloader.evaluator.tasks = _boxes.evaluator.tasks

model.pixel_mean = [127.5, 127.5, 127.5]
model.pixel_std = [64.0, 64.0, 64.0]

data.update(short_edge_length=128, max_size=128)
model.backbone.bottom_up.update(pretrain_img_size=128, drop_path_rate=0.0)
model.backbone.bottom_up.out_features = ["res2", "res3", "res4", "res5"]
model.backbone.update(in_features="${.bottom_up.out_features}", out_channels=64)
model.backbone.update(norm="GN", top_block=None)  # strides 4 to 32
# Digits are 16 to 64 px high: three to five times the stride of their level.
model.head_in_features = ["p2", "p3", "p4"]
model.anchor_generator.update(sizes=[[14, 20], [28, 40], [52, 68]], strides=[4, 8, 16])
model.head.input_shape = [ShapeSpec(channels=64)] * 3
model.head.update(conv_dims=[64, 64, 64, 64], norm="GN", num_anchors=6)

train.output_dir = "./runs/quickstart_retinanet_pvt"
train.max_iter = 1000
