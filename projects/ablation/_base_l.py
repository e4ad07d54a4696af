# SPDX-License-Identifier: Apache-2.0
"""What the rows of the ablation share, ViT-L; a delta of vitdet_l, as `_base_b` is of vitdet_b."""

from ..vitdet_l import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.net.use_rel_pos = False
model.backbone.net.window_block_indexes = []
model.backbone.net.cross_window = "global"
model.backbone.net.cross_window_indexes = None
