# SPDX-License-Identifier: Apache-2.0
"""Every row of the ablation loads, builds on the meta device, and trains when made small."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf

from vitdet_d2.engine.recipe_json import from_json, to_json
from vitdet_d2.engine.recipes import load_recipe

ROOT = Path(__file__).parents[2]

# Name -> published box AP, global blocks, blocks with shifted windows, blocks with convolutions.
L4 = [5, 11, 17, 23]
ROWS = {
    "neck_none_b": (47.8, [2, 5, 8, 11], [], []),
    "neck_none_l": (51.2, L4, [], []),
    "neck_fpn_4stage_b": (50.3, [2, 5, 8, 11], [], []),
    "neck_fpn_4stage_l": (54.4, L4, [], []),
    "neck_fpn_last_map_b": (50.9, [2, 5, 8, 11], [], []),
    "neck_fpn_last_map_l": (54.6, L4, [], []),
    "neck_sfp_b": (51.2, [2, 5, 8, 11], [], []),
    "neck_sfp_l": (54.6, L4, [], []),
    "strategy_none_l": (52.9, [], [], []),
    "strategy_global_l": (54.6, L4, [], []),
    "strategy_conv_l": (54.8, [], [], L4),
    "strategy_shifted_l": (54.0, [], list(range(1, 24, 2)), []),
    "conv_naive_l": (54.3, [], [], L4),
    "conv_basic_l": (54.8, [], [], L4),
    "conv_bottleneck_l": (54.6, [], [], L4),
    "placement_first_l": (52.9, [0, 1, 2, 3], [], []),
    "placement_last_l": (54.3, [20, 21, 22, 23], [], []),
    "placement_even_l": (54.6, L4, [], []),
    "global_2_l": (54.4, [11, 23], [], []),
    "global_4_l": (54.6, L4, [], []),
    "global_24_l": (55.1, list(range(24)), [], []),
}
CONVOLUTIONS = {"strategy_conv_l": 2, "conv_naive_l": 1, "conv_basic_l": 2, "conv_bottleneck_l": 3}

# ViT-Ti at 64 px: 4 x 4 tokens in windows of 3, so that there are several, and padding; and heads
# that cost next to nothing.
TI = [
    "data.image_size=64",
    "model.backbone.net.embed_dim=192",
    "model.backbone.net.depth=12",
    "model.backbone.net.num_heads=3",
    "model.backbone.net.window_size=3",
    "model.backbone.net.drop_path_rate=0",
    "model.roi_heads.batch_size_per_image=8",
    "model.roi_heads.num_classes=3",
    "model.roi_heads.box_head.conv_dims=[8]",
    "model.roi_heads.mask_head.conv_dims=[8, 8]",
    "model.proposal_generator.head.conv_dims=[8]",
    "model.proposal_generator.post_nms_topk=[8, 8]",
]


def load(name, overrides=()):
    return load_recipe(f"ablation/{name}", list(overrides))


def where(blocks, chosen):
    return [i for i, block in enumerate(blocks) if chosen(block)]


def test_every_row_has_its_recipe_and_its_number():
    paths = (ROOT / "projects/ablation").glob("*.py")
    assert {p.stem for p in paths if not p.stem.startswith(("_", "pvt_"))} == set(ROWS)
    for name, (ap, *_) in ROWS.items():
        text = (ROOT / f"projects/ablation/{name}.py").read_text()
        assert re.search(r"^Published: ([\d.]+) box AP \(paper", text, re.M)[1] == str(ap), name
        assert "Not measured here yet." in text
        assert f"--config-file projects/ablation/{name}.py --num-gpus 8" in text


@pytest.mark.parametrize("name", ROWS)
def test_rows_build_as_the_paper_says(name):
    cfg = load(name)
    with torch.device("meta"):
        model = instantiate(cfg.model)
    net = model.backbone.net
    _, global_blocks, shifted, convolutional = ROWS[name]
    assert len(net.blocks) == (12 if name.endswith("_b") else 24)
    assert where(net.blocks, lambda b: b.window_size == 0) == global_blocks
    assert {b.window_size for b in net.blocks} <= {0, 14}
    assert where(net.blocks, lambda b: b.attn.shift == 7) == shifted
    assert where(net.blocks, lambda b: b.use_residual_block) == convolutional
    kinds = {b.residual.num_convs for b in net.blocks if b.use_residual_block}
    assert kinds == ({CONVOLUTIONS[name]} if name in CONVOLUTIONS else set())
    assert not any(b.attn.use_rel_pos for b in net.blocks)
    assert model.backbone.padding_constraints["square_size"] == 1024
    levels = ["p4"] if "neck_none" in name else ["p2", "p3", "p4", "p5", "p6"]
    assert list(model.backbone.output_shape()) == levels
    assert model.proposal_generator.in_features == levels
    if "4stage" in name:
        quarters = [2, 5, 8, 11] if name.endswith("_b") else L4
        assert list(net._stages) == quarters
        assert model.backbone.bottom_up.in_features == ("stage1", "stage2", "stage3", "stage4")


def target():
    instances = Instances((64, 64))
    boxes = [[4.0, 4.0, 30.0, 30.0], [20.0, 14.0, 60.0, 56.0]]
    instances.gt_boxes = Boxes(torch.tensor(boxes))
    instances.gt_classes = torch.tensor([0, 2])
    corners = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes]
    instances.gt_masks = PolygonMasks(corners)
    return instances


@pytest.mark.filterwarnings("ignore:torch.meshgrid")  # of an installed Detectron2
@pytest.mark.parametrize("name", ROWS)
def test_rows_train_when_made_small_by_overrides(name):
    """With heads of no size, some rows are the same small model: that is trained once."""
    cfg = load(name, TI)
    train_one_step(to_json(OmegaConf.masked_copy(cfg, ["model", "data"])))


@cache
def train_one_step(recipe):
    """Run one image forward and backward, from the text that a run keeps of its recipe."""
    torch.manual_seed(0)
    model = instantiate(from_json(recipe, "recipe").model)
    assert model.backbone.padding_constraints["square_size"] == 64
    assert len(model.backbone.net.blocks) == 12
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(3, 64, 64, generator=generator) * 255
    with EventStorage():
        losses = model([{"image": image, "instances": target()}])
    assert {"loss_rpn_cls", "loss_box_reg", "loss_mask"} <= losses.keys()
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    stem = model.backbone.net.patch_embed.proj.weight
    assert stem.grad.isfinite().all()
    assert stem.grad.any()
    new = [block.residual for block in model.backbone.net.blocks if block.use_residual_block]
    for block in new:
        assert block.get_parameter(f"norm{block.num_convs}.weight").grad.any()


def test_a_strategy_can_be_chosen_by_override():
    overrides = [*TI, "model.backbone.net.cross_window=shifted"]
    overrides.append("model.backbone.net.cross_window_indexes=[3]")
    cfg = load("neck_sfp_b", overrides)
    with torch.device("meta"):
        net = instantiate(cfg.model.backbone).net
    assert where(net.blocks, lambda b: b.attn.shift == 1) == [3]


def test_a_strategy_in_another_recipe():
    overrides = [
        "model.backbone.net.window_block_indexes=[]",
        "+model.backbone.net.cross_window=conv",
        "+model.backbone.net.conv_block=naive",
    ]
    cfg = load_recipe("vitdet_b", overrides)
    with torch.device("meta"):
        net = instantiate(cfg.model.backbone).net
    assert where(net.blocks, lambda b: b.use_residual_block) == [2, 5, 8, 11]
    assert where(net.blocks, lambda b: b.window_size == 0) == []
