# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN on ViT-B with the simple feature pyramid.

Source: ViTDet, arXiv 2203.16527; the values of Detectron2's `common/models/mask_rcnn_vitdet.py`.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from vitdet_d2.backbones import ViT, vit_arguments
from vitdet_d2.layers.norm import layer_norm
from vitdet_d2.necks import SimpleFeaturePyramid

from .mask_rcnn import model

model.backbone = L(SimpleFeaturePyramid)(
    net=L(ViT)(
        img_size="${oc.select:data.image_size, 1024}",
        patch_size=16,
        **vit_arguments("b"),
        drop_path_rate=0.1,
        window_size=14,
        mlp_ratio=4.0,
        qkv_bias=True,
        norm_layer=L(layer_norm)(eps=1e-6),
        residual_block_indexes=[],
        use_abs_pos=True,
        use_rel_pos=True,
        use_act_checkpoint=False,
        out_feature="last_feat",
        # What some pre-trained encoders need, as defaults, so that overrides find the keys.
        pretrain_img_size=224,
        layer_scale_init=None,
        rel_pos_bias=None,
        act=None,
        mlp="gelu",
        mlp_norm=False,
        pre_norm=False,
        rope=None,
    ),
    in_feature="${.net.out_feature}",
    out_channels=256,
    scale_factors=(4.0, 2.0, 1.0, 0.5),
    top_block=L(LastLevelMaxPool)(),
    norm="LN",
    square_pad="${.net.img_size}",
)

# Two hidden convolutions in the RPN; four and one fully connected layer in the box head.
model.proposal_generator.head.conv_dims = [-1, -1]
model.roi_heads.box_head.conv_dims = [256, 256, 256, 256]
model.roi_heads.box_head.fc_dims = [1024]
model.roi_heads.box_head.conv_norm = model.roi_heads.mask_head.conv_norm = "LN"
