# SPDX-License-Identifier: Apache-2.0
"""Pyramid transformers under an FPN in a detector: padding, odd sizes, a step of training."""

import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.layers import ShapeSpec
from detectron2.model_zoo import get_config
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from tests.backbones.pyramid_case import FAMILY, NAMES, TINY
from tests.closed_form import image
from vitdet_d2.backbones import PVT

MEAN, STD = [100.0, 110.0, 120.0], [50.0, 60.0, 70.0]


def tiny(name):
    kind, arguments = FAMILY[name]
    return kind(**{**TINY, **arguments})


def pyramid(name):
    return FPN(tiny(name), ["res2", "res3", "res4", "res5"], 8)


@pytest.mark.parametrize("name", NAMES)
def test_batches_are_padded_as_by_hand(name):
    backbone = pyramid(name).eval()
    assert backbone.size_divisibility == 32
    detector = GeneralizedRCNN(
        backbone=backbone,
        proposal_generator=nn.Identity(),
        roi_heads=nn.Identity(),
        pixel_mean=MEAN,
        pixel_std=STD,
    )
    sizes = [(40, 70), (61, 33)]
    pictures = [image(f"picture{i}", *hw) for i, hw in enumerate(sizes)]
    batch = detector.preprocess_image([{"image": picture} for picture in pictures])
    by_hand = torch.zeros(2, 3, 64, 96)
    mean, std = (torch.tensor(value)[:, None, None] for value in (MEAN, STD))
    for row, picture, (h, w) in zip(by_hand, pictures, sizes, strict=True):
        row[:, :h, :w] = (picture - mean) / std
    assert batch.image_sizes == sizes
    torch.testing.assert_close(batch.tensor, by_hand)
    with torch.no_grad():
        maps, expected = backbone(batch.tensor), backbone(by_hand)
    for key, stride in (("p2", 4), ("p3", 8), ("p4", 16), ("p5", 32), ("p6", 64)):
        if key in maps:
            assert maps[key].shape[2:] == (-(-64 // stride), -(-96 // stride))
            torch.testing.assert_close(maps[key], expected[key])


def retinanet(name):
    """Return Detectron2's RetinaNet of two classes with narrow maps."""
    model = get_config("common/models/retinanet.py").model
    model.backbone = LazyCall(FPN)(
        bottom_up=tiny(name),
        in_features=["res3", "res4", "res5"],
        out_channels=8,
        top_block=LastLevelP6P7(TINY["embed_dims"][-1], 8),
    )
    model.num_classes = 2
    model.head.conv_dims = [8]
    model.head.input_shape = [ShapeSpec(channels=8)] * 5
    return instantiate(model)


# 333 x 517 is padded to 352 x 544; the others are what they are.
SIZES = [(448, 448), (896, 896), (800, 1216), (333, 517)]
STEPS = [("pvt", hw) for hw in SIZES] + [(name, (333, 517)) for name in ("pvt_v2_li", "mit")]


@pytest.mark.parametrize(("name", "hw"), STEPS)
def test_one_step_of_training_at_any_size(name, hw):
    torch.manual_seed(0)
    model = retinanet(name).train()
    before = model.backbone.bottom_up.patch_embed1.proj.weight.detach().clone()
    target = Instances(hw)
    target.gt_boxes = Boxes(torch.tensor([[20.0, 30.0, 200.0, 180.0], [5.0, 5.0, 60.0, 70.0]]))
    target.gt_classes = torch.tensor([0, 1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with EventStorage():
        losses = model([{"image": image("picture", *hw), "instances": target}])
    loss = sum(losses.values())
    assert torch.isfinite(loss)
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
    optimizer.step()
    first = model.backbone.bottom_up.patch_embed1.proj.weight
    assert not torch.equal(first, before)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_near_to_single(name):
    net = tiny(name).eval()
    x = (image("picture", 96, 128) / 128 - 1)[None]
    with torch.no_grad():
        expected = net(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            maps = net(x)
    for key, value in expected.items():
        # bf16 keeps 8 bits; maps are of order 1 after one to two blocks per stage.
        error = (maps[key].float() - value).abs().max() / value.abs().max()
        assert error < 0.05, key


def test_default_is_the_small_size_and_takes_any_input_channels():
    with torch.device("meta"):
        net = PVT(in_chans=5)
        maps = net(torch.zeros(1, 5, 64, 64))
    assert net.depths == (3, 4, 6, 3)
    assert maps["res5"].shape == (1, 512, 2, 2)
