# SPDX-License-Identifier: Apache-2.0
"""The Swin and MViTv2 recipes load, build on the meta device, and hold what their headers say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling.backbone import FPN
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf

from tests.backbones.timm_case import SWIN
from vitdet_d2.backbones import TimmBackbone
from vitdet_d2.zoo import for_inference, get_config

ROOT = Path(__file__).parents[2]
# Size: widths of the maps, blocks.
SIZES = {
    "swin_b": ((128, 256, 512, 1024), 24),
    "swin_l": ((192, 384, 768, 1536), 24),
    "mvitv2_b": ((96, 192, 384, 768), 24),
    "mvitv2_l": ((144, 288, 576, 1152), 48),
    "mvitv2_h": ((192, 384, 768, 1536), 80),
}
# Learning rate, drop path, iterations.
SETTINGS = {
    "cascade_swin_b": (4e-5, 0.4, 92187),
    "cascade_swin_l": (4e-5, 0.4, 92187),
    "cascade_mvitv2_b": (8e-5, 0.4, 184375),
    "cascade_mvitv2_l": (8e-5, 0.5, 92187),
    "cascade_mvitv2_h": (1.6e-4, 0.6, 67500),
    "lvis_cascade_swin_b": (1e-4, 0.3, 78125),
    "lvis_cascade_swin_l": (1e-4, 0.3, 78125),
    "lvis_cascade_mvitv2_b": (1e-4, 0.4, 156250),
    "lvis_cascade_mvitv2_l": (4e-5, 0.5, 78125),
    "lvis_cascade_mvitv2_h": (2e-5, 0.6, 78125),
}


def load(name: str, *keys: str) -> Any:
    return LazyConfig.load(str(ROOT / f"projects/{name}.py"), *keys)


@pytest.mark.parametrize("name", SETTINGS)
def test_model(name: str) -> None:
    cfg = load(name)
    with torch.device("meta"):
        model = instantiate(for_inference(cfg.model))
    widths, blocks = SIZES[name.rpartition("cascade_")[2]]
    pyramid = model.backbone
    assert isinstance(pyramid, FPN)
    bottom_up = pyramid.bottom_up
    assert isinstance(bottom_up, TimmBackbone)
    shapes = bottom_up.output_shape()
    assert tuple(shape.channels for shape in shapes.values()) == widths
    assert [shape.stride for shape in shapes.values()] == [4, 8, 16, 32]
    kinds = ("SwinBlock", "MultiScaleBlock")
    assert len([m for m in bottom_up.modules() if type(m).__name__ in kinds]) == blocks
    assert list(pyramid.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    assert pyramid.padding_constraints["square_size"] == 1024
    assert isinstance(model.roi_heads, CascadeROIHeads)
    assert model.roi_heads.num_classes == (1203 if name.startswith("lvis") else 80)
    assert bottom_up.use_act_checkpoint is name.endswith("_h")
    rates = [m.drop_prob for m in bottom_up.modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(SETTINGS[name][1])


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(name: str) -> None:
    cfg = load(name)
    rate, _, iterations = SETTINGS[name]
    assert cfg.optimizer.lr == rate
    assert cfg.optimizer.weight_decay == (0.05 if "swin" in name else 0.1)
    assert cfg.optimizer.params.lr_factor_func is None
    assert cfg.train.max_iter == iterations
    multiplier = instantiate(cfg.lr_multiplier)
    assert multiplier(0.0) == pytest.approx(0.001)
    values = [multiplier(where) for where in (0.7, 0.9, 0.99)]
    assert values == pytest.approx([1.0, 0.1, 0.01])
    head = (ROOT / f"projects/{name}.py").read_text().split('"""')[1]
    epochs = int(head.split(" epochs")[0].rpartition(" ")[2])
    images = 100000 if name.startswith("lvis") else 118000
    assert math.floor(iterations * 64 / images + 0.1) == epochs
    assert f"--config-file projects/{name}.py --num-gpus" in head
    assert "Not measured here yet." in head


@pytest.mark.parametrize("name", ["cascade_swin_b", "lvis_cascade_mvitv2_l"])
def test_parts_stand_alone(name: str) -> None:
    model, whole = load(name, "model"), load(name)
    assert model.backbone.square_pad == whole.data.image_size == 1024
    assert OmegaConf.to_container(model.backbone, resolve=True) == OmegaConf.to_container(
        whole.model.backbone, resolve=True
    )


def test_a_small_one_trains_a_step() -> None:
    cfg = LazyConfig.apply_overrides(
        load("cascade_swin_b"),
        [
            f"model.backbone.bottom_up.name='{SWIN}'",
            "model.backbone.out_channels=256",
            "data.image_size=128",
            "model.roi_heads.batch_size_per_image=8",
            "model.proposal_generator.post_nms_topk=[20,20]",
        ],
    )
    model = instantiate(for_inference(cfg.model)).train()
    target = Instances((96, 120))
    target.gt_boxes = Boxes(torch.tensor([[10.0, 10.0, 80.0, 90.0]]))
    target.gt_classes = torch.tensor([3])
    mask = torch.zeros(1, 96, 120, dtype=torch.bool)
    mask[:, 10:90, 10:80] = True
    target.gt_masks = BitMasks(mask)
    with EventStorage():
        losses = model([{"image": torch.rand(3, 96, 120) * 255, "instances": target}])
    sum(losses.values()).backward()
    without = [n for n, p in model.backbone.named_parameters() if p.grad is None]
    assert not without
    assert all(torch.isfinite(value) for value in losses.values())


def test_detectron2s_names_find_them() -> None:
    cfg = get_config("COCO/cascade_mask_rcnn_swin_l_in21k_50ep")
    assert cfg.model.backbone.bottom_up.name == "swin_large_patch4_window7_224"
