# SPDX-License-Identifier: Apache-2.0
"""What the rows of the ablation share, ViT-B; a delta of vitdet_b.

Source: ViTDet, arXiv 2203.16527, tables 1 and 2: Mask R-CNN, MAE weights, 1024 px, 100 epochs,
without relative positions [from memory], four global blocks unless the row says otherwise.
"""

from ..vitdet_b import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.net.use_rel_pos = False
# The strategy decides over every block; a list of windowed blocks would win over it.
model.backbone.net.window_block_indexes = []
model.backbone.net.cross_window = "global"
model.backbone.net.cross_window_indexes = None
