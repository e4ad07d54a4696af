# SPDX-License-Identifier: Apache-2.0
"""A very small ViTDet Mask R-CNN on handwritten digits: minutes on two CPU cores, from scratch.

Source: the detector of ViTDet (arXiv 2203.16527), shrunk; settings of our own.
Data: real handwritten digits on drawn backgrounds, 192 px, 10 classes, made on first use; the 200
    held-out images show only digits that were never trained on.
Measured here: see benchmarks/quickstart_cpu_202611.md.
Command:
    python train_net.py --config-file projects/quickstart.py

What is small: four blocks of width 128 on patches of 8 px (windows of 8 x 8 tokens, global
attention in the second and the fourth block), three levels of 64 channels, 32 boxes per image, one
convolution per head.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import CosineParamScheduler

from ..configs.data.coco_lsj import data, dataloader
from ..configs.models.mask_rcnn_vitdet import model
from ..configs.optim.adamw_layer_decay import optimizer
from ..configs.schedules.coco import lr_multiplier
from ..configs.train import train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

# Digits are never mirrored, and their drawn sizes vary enough.
data.image_size = 192
_SIZE = "${oc.select:data.image_size, 192}"
dataloader.image_size = model.backbone.net.img_size = _SIZE
dataloader.train.dataset.names = "digits_train"
dataloader.test.dataset.names = "digits_val"
dataloader.train.mapper.augmentations = dataloader.test.mapper.augmentations
for _side in ("short_edge_length", "max_size"):
    dataloader.train.mapper.augmentations[0][_side] = "${.....image_size}"
dataloader.train.mapper.recompute_boxes = False
dataloader.train.mapper.instance_mask_format = "bitmask"  # digits have holes, polygons have none
dataloader.train.total_batch_size = 4
dataloader.train.num_workers = dataloader.test.num_workers = 0

model.pixel_mean = [127.5, 127.5, 127.5]
model.pixel_std = [64.0, 64.0, 64.0]

_backbone, _rpn, _heads = model.backbone, model.proposal_generator, model.roi_heads
_backbone.net.update(patch_size=8, embed_dim=128, depth=4, num_heads=2, window_size=8)
_backbone.net.window_block_indexes = [0, 2]
_backbone.net.update(pretrain_img_size=_SIZE, pretrain_use_cls_token=False, drop_path_rate=0.0)
_backbone.update(out_channels=64, scale_factors=(2.0, 1.0, 0.5), top_block=None)  # strides 4, 8, 16
# Proposals from strides 8 and 16, boxes and masks from all three.
_rpn.in_features = ["p3", "p4"]
_rpn.head.update(in_channels=64, conv_dims=[64], num_anchors=6)
_rpn.anchor_generator.update(sizes=[[24, 40], [60, 88]], strides=[8, 16])
_rpn.update(batch_size_per_image=128, pre_nms_topk=(300, 200), post_nms_topk=(150, 100))
_heads.box_in_features = _heads.mask_in_features = ["p2", "p3", "p4"]
_heads.update(batch_size_per_image=32, positive_fraction=0.375)
for _pooler in (_heads.box_pooler, _heads.mask_pooler):
    # Boxes from 64 px on are pooled from p3.
    _pooler.update(scales=[1 / 4, 1 / 8, 1 / 16], sampling_ratio=1)
    _pooler.update(canonical_box_size=64, canonical_level=3)
_heads.box_pooler.sampling_ratio = 2  # its 7 x 7 bins are wider than a cell of p2
_heads.box_head.update(conv_dims=[64], fc_dims=[256])
_heads.box_head.input_shape.channels = _heads.mask_head.input_shape.channels = 64
_heads.box_predictor.input_shape.channels = 256
# One regressor for all classes: each class alone has too few examples in minutes.
_heads.box_predictor.cls_agnostic_bbox_reg = True
_heads.mask_head.conv_dims = [64, 64]

train.update(
    output_dir="./runs/quickstart",
    max_iter=1250,
    eval_period=0,
    seed=0,
    pictures=12,
)
train.checkpointer.update(period=200, max_to_keep=2)
optimizer.update(lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
optimizer.params.lr_factor_func = None
lr_multiplier.scheduler = L(CosineParamScheduler)(start_value=1.0, end_value=0.01)
lr_multiplier.update(warmup_length=100 / train.max_iter, warmup_factor=0.01)
