# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN, ViT-H, LVIS v1, 1024 px, 100 epochs; a delta of lvis_vitdet_b.

Source: ViTDet, arXiv 2203.16527; the settings of Detectron2's
    projects/ViTDet/configs/LVIS/mask_rcnn_vitdet_h_100ep.py.
Published: 49.1 box AP, 46.0 mask AP (Detectron2, model 332434656). Not measured here yet.
Published cost: 64 A100, one image each: 1.059 s per iteration, 35.3 GB.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/lvis_vitdet_h.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from vitdet_d2.backbones import vit_arguments

from .lvis_vitdet_b import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.net.update(vit_arguments("h"))
model.backbone.net.drop_path_rate = 0.4

# Weight decay on every parameter, norms and position embeddings included: as published.
optimizer.lr = 1e-4
optimizer.params.lr_factor_func.num_layers = 32
optimizer.params.lr_factor_func.lr_decay_rate = 0.9
optimizer.params.overrides = {}
optimizer.params.weight_decay_norm = None

train.init_checkpoint = "mae_vit_h"
