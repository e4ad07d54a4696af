# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN on PVT-Tiny on handwritten digits: minutes on two CPU cores, from scratch.

Source: PVT, arXiv 2102.12122, its Tiny size whole; narrow heads and settings of our own.
Data: as in `quickstart`: 192 px, 10 classes, 200 held-out images of digits never trained on.
Measured here: see benchmarks/pvt_digits_cpu_202611.md.
Command:
    python train_net.py --config-file projects/quickstart_mask_rcnn_pvt.py

What is small: images, 64 channels in pyramid and heads, 32 boxes per image, one convolution in RPN
and box head, two in the mask head.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import CosineParamScheduler

from .mask_rcnn_pvt_tiny import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

data.update(short_edge_length=192, max_size=192, flip_prob=0.0)
dataloader.train.dataset.names = "digits_train"
dataloader.test.dataset.names = "digits_val"
dataloader.train.mapper.instance_mask_format = "bitmask"  # digits have holes, polygons have none
dataloader.train.total_batch_size = 4
dataloader.train.num_workers = dataloader.test.num_workers = 0

model.pixel_mean = [127.5, 127.5, 127.5]
model.pixel_std = [64.0, 64.0, 64.0]

_backbone, _rpn, _heads = model.backbone, model.proposal_generator, model.roi_heads
_backbone.bottom_up.update(pretrain_img_size=192, drop_path_rate=0.0)
_backbone.update(out_channels=64, top_block=None)  # strides 4, 8, 16, 32
# Digits are 24 to 96 px high. Proposals come from strides 8 to 32, boxes and masks from 4 and 8.
_rpn.in_features = ["p3", "p4", "p5"]
_rpn.head.update(in_channels=64, num_anchors=6)
_rpn.anchor_generator.update(sizes=[[24, 32], [44, 60], [76, 96]], strides=[8, 16, 32])
_rpn.update(batch_size_per_image=128, pre_nms_topk=(300, 200), post_nms_topk=(150, 100))
_heads.box_in_features = _heads.mask_in_features = ["p2", "p3"]
_heads.update(batch_size_per_image=32, positive_fraction=0.375)
for _pooler in (_heads.box_pooler, _heads.mask_pooler):
    # Boxes from 64 px on are pooled from p3.
    _pooler.update(scales=[1 / 4, 1 / 8], sampling_ratio=1)
    _pooler.update(canonical_box_size=64, canonical_level=3)
_heads.box_pooler.sampling_ratio = 2  # its 7 x 7 bins are wider than a cell of p2
_heads.box_head.update(conv_dims=[64], fc_dims=[256])
_heads.box_head.input_shape.channels = _heads.mask_head.input_shape.channels = 64
_heads.box_predictor.input_shape.channels = 256
# One regressor for all classes: each class alone has too few examples in minutes.
_heads.box_predictor.cls_agnostic_bbox_reg = True
_heads.mask_head.conv_dims = [64, 64]

train.update(
    output_dir="./runs/quickstart_mask_rcnn_pvt",
    init_checkpoint="",
    max_iter=800,
    eval_period=0,
    seed=0,
    pictures=12,
)
train.checkpointer.update(period=200, max_to_keep=2)
optimizer.update(lr=5e-4, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
lr_multiplier.scheduler = L(CosineParamScheduler)(start_value=1.0, end_value=0.01)
lr_multiplier.update(warmup_length=100 / train.max_iter, warmup_factor=0.01)
