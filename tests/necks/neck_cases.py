# SPDX-License-Identifier: Apache-2.0
"""Every neck on a tiny ViT, and what batches must look like for it, on any runtime."""

from __future__ import annotations

import torch
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.meta_arch import GeneralizedRCNN
from torch import nn

from tests.backbones.vit_case import TINY
from vitdet_d2.backbones import ViT
from vitdet_d2.necks import LastMapFPN, MultiTapFPN, SimpleFeaturePyramid

# Image sizes of batches; and height and width after padding to multiples of 16 and of 32.
BATCHES = [
    ([(40, 70), (33, 20)], (48, 80), (64, 96)),
    ([(64, 64)], (64, 64), (64, 64)),
    ([(100, 31), (5, 5), (65, 97)], (112, 112), (128, 128)),
    ([(1, 200)], (16, 208), (32, 224)),
]
NECKS = ["single_map", "multi_tap", "last_map", "pyramid"]


def make_neck(name, square_pad=0, **changes):
    """Return a neck of 16 channels on three blocks of 24 channels."""
    if name == "multi_tap":
        net = ViT(**TINY, out_block_indexes=(0, 1, 2))
        arguments = {"in_features": ["stage1", "stage1", "stage2", "stage3"]}
        return MultiTapFPN(net, **_arguments(arguments, square_pad, changes))
    net = ViT(**TINY)
    arguments = {"in_feature": "last_feat"}
    if name == "last_map":
        return LastMapFPN(net, **_arguments(arguments, square_pad, changes))
    scales = (1.0,) if name == "single_map" else (4.0, 2.0, 1.0, 0.5)
    if name == "single_map":
        changes = {"top_block": None, **changes}
    arguments["scale_factors"] = scales
    return SimpleFeaturePyramid(net, **_arguments(arguments, square_pad, changes))


def _arguments(own, square_pad, changes):
    common = {"out_channels": 16, "top_block": LastLevelMaxPool(), "square_pad": square_pad}
    return {**common, **own, **changes}


def check_batches_obey(name):
    """Pad batches as a detector does, and run the neck on them."""
    neck = make_neck(name)
    detector = GeneralizedRCNN(
        backbone=neck,
        proposal_generator=nn.Identity(),
        roi_heads=nn.Identity(),
        pixel_mean=[1.0, 2.0, 3.0],
        pixel_std=[1.0, 1.0, 1.0],
    )
    stride = neck.size_divisibility
    assert stride == (16 if name == "single_map" else 32)
    assert neck.padding_constraints == {"size_divisibility": stride, "square_size": 0}
    for sizes, at_16, at_32 in BATCHES:
        images = [{"image": torch.full((3, h, w), 5.0)} for h, w in sizes]
        batch = detector.preprocess_image(images)
        assert [tuple(size) for size in batch.image_sizes] == sizes
        assert tuple(batch.tensor.shape[-2:]) == (at_16 if stride == 16 else at_32)
        with torch.no_grad():
            check_shapes(neck, batch.tensor)
    neck._square_pad = 224
    batch = detector.preprocess_image([{"image": torch.zeros(3, 40, 70)}])
    assert tuple(batch.tensor.shape[-2:]) == (224, 224)


def check_shapes(neck, x):
    """Run a neck, and compare every map with what the neck declares."""
    outputs = neck(x)
    assert list(outputs) == list(neck.output_shape())
    for name, shape in neck.output_shape().items():
        size = [-(-side // shape.stride) for side in x.shape[-2:]]
        assert list(outputs[name].shape) == [len(x), shape.channels, *size], name
