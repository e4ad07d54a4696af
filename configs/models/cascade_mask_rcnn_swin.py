# SPDX-License-Identifier: Apache-2.0
"""Cascade Mask R-CNN on Swin-B of timm with FPN; a delta of cascade_mask_rcnn_vitdet.

Source: the comparison of ViTDet, arXiv 2203.16527, section 4.3; the values of Detectron2's
`projects/ViTDet/configs/COCO/cascade_mask_rcnn_swin_b_in21k_50ep.py`.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from vitdet_d2.backbones import TimmBackbone
from vitdet_d2.layers.norm import layer_norm

from .cascade_mask_rcnn_vitdet import model

model.backbone = L(FPN)(
    bottom_up=L(TimmBackbone)(
        name="swin_base_patch4_window7_224",
        out_indices=[0, 1, 2, 3],
        pretrained=False,
        drop_path_rate=0.4,
        window_size=None,
        out_norm=L(layer_norm)(eps=1e-5),
        frozen_stages=0,
        use_act_checkpoint=False,
    ),
    in_features=["layers.0", "layers.1", "layers.2", "layers.3"],
    out_channels=256,
    top_block=L(LastLevelMaxPool)(),
    norm="LN",
    square_pad="${oc.select:data.image_size, 1024}",
)
