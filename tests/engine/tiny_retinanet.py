# SPDX-License-Identifier: Apache-2.0
"""A recipe: RetinaNet on a PVT of four blocks, images of 64 px, four steps on the CPU."""

from detectron2.config import LazyCall as L

from vitdet_d2.backbones import PVT

from ...configs.data.coco_1x_boxes import data, dataloader
from ...configs.models.retinanet_fpn import model
from ...configs.optim.adamw_uniform import optimizer
from ...configs.schedules.coco_1x import lr_multiplier
from ...configs.train import train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

data.update(short_edge_length=64, max_size=96)
dataloader.train.update(total_batch_size=2, num_workers=0)
dataloader.test.num_workers = 0

model.backbone.bottom_up = L(PVT)(
    embed_dims=[8, 8, 16, 16],
    depths=[1, 1, 1, 1],
    num_heads=[1, 1, 2, 2],
    mlp_ratios=[2, 2, 2, 2],
    sr_ratios=[8, 4, 2, 1],
    out_features=["res3", "res4", "res5"],
)
model.backbone.top_block.in_channels = "${..bottom_up.embed_dims.3}"
model.head.conv_dims = [8]
model.test_score_thresh = 0.0  # random weights detect something

optimizer.lr = 0.01
train.update(init_checkpoint="", device="cpu", max_iter=4, log_period=1, seed=0)
train.checkpointer.period = 2
