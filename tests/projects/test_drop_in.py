# SPDX-License-Identifier: Apache-2.0
"""The recipe of docs/drop_in.md: another project's model with our backbone, at a small size."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import Tensor

from vitdet_d2.backbones import PVTv2, ViT

DOCUMENT = Path(__file__).parents[2] / "docs/drop_in.md"
SIDE = 64


def documented_recipe(folder: Path, file: str = "my_recipe.py", **replaced: str) -> DictConfig:
    """Load one of the document's; keyword arguments replace lines that begin with the name."""
    text = next(
        block
        for block in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
        if block.startswith(f"# {file}")
    )
    for name, line in replaced.items():
        text, count = re.subn(rf"^{name} = .*$", line, text, count=1, flags=re.MULTILINE)
        assert count == 1
    path = folder / file
    path.write_text(text)
    return LazyConfig.load(str(path))


def shrink(cfg: DictConfig) -> DictConfig:
    """Make a ViT of two narrow blocks of it, for small images and three classes."""
    cfg.model.backbone.net.update(
        embed_dim=32, depth=2, num_heads=2, window_block_indexes=[0], img_size=SIDE
    )
    cfg.model.backbone.square_pad = SIDE
    cfg.model.roi_heads.num_classes = 3
    cfg.model.roi_heads.box_predictor.test_topk_per_image = 5
    cfg.optimizer.params.lr_factor_func.num_layers = 2
    return cfg


def batch(*, with_stuff: bool = False) -> list[dict[str, Any]]:
    """Two images of different sizes with one object each."""
    generator = torch.Generator().manual_seed(3)
    samples = []
    for height, width in ((SIDE, 48), (40, SIDE)):
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.tensor([[4.0, 6.0, 30.0, 36.0]]))
        instances.gt_classes = torch.tensor([1])
        mask = torch.zeros(1, height, width, dtype=torch.bool)
        mask[0, 6:36, 4:30] = True
        instances.gt_masks = BitMasks(mask)
        image = torch.rand(3, height, width, generator=generator) * 255
        sample = {"image": image, "instances": instances, "height": height, "width": width}
        if with_stuff:
            sample["sem_seg"] = torch.randint(0, 54, (height, width), generator=generator)
        samples.append(sample)
    return samples


def assert_trains(model: torch.nn.Module, samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """One step's losses, and that every parameter of the backbone gets a finite gradient."""
    model.train()
    with EventStorage():
        losses = model(samples)
    sum(losses.values()).backward()
    for name, parameter in model.backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    return losses


def test_documented_recipe_trains_and_predicts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    cfg = shrink(documented_recipe(tmp_path))
    model = instantiate(cfg.model)
    assert isinstance(model.backbone.net, ViT)
    losses = assert_trains(model, batch())
    assert model.backbone.net.patch_embed.proj.weight.grad.any()
    assert {"loss_rpn_cls", "loss_cls", "loss_box_reg", "loss_mask"} <= losses.keys()
    model.eval()
    with torch.no_grad():
        outputs = model(batch())
    assert [output["instances"].image_size for output in outputs] == [(64, 48), (40, 64)]


def test_documented_optimizer_decays_by_layer(tmp_path: Path) -> None:
    cfg = shrink(documented_recipe(tmp_path))
    model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: g["lr"] for g in optimizer.param_groups for p in g["params"]}
    base = cfg.optimizer.lr
    assert rates["backbone.net.pos_embed"] == pytest.approx(base * 0.7**3)
    assert rates["backbone.net.blocks.1.attn.qkv.weight"] == pytest.approx(base * 0.7)
    assert rates["roi_heads.box_predictor.cls_score.weight"] == pytest.approx(base)
    decay = {names[id(p)]: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decay["backbone.net.pos_embed"] == 0


def test_documented_recipe_with_a_pvt_trains(tmp_path: Path) -> None:
    torch.manual_seed(0)
    cfg = documented_recipe(tmp_path, "my_pvt_recipe.py")
    assert cfg.model.backbone.bottom_up.depths == [3, 4, 6, 3]
    cfg.model.backbone.bottom_up.update(embed_dims=[8, 8, 16, 16], num_heads=[1] * 4)
    cfg.model.backbone.bottom_up.depths = [1] * 4
    cfg.model.roi_heads.num_classes = 3
    model = instantiate(cfg.model)
    assert isinstance(model.backbone.bottom_up, PVTv2)
    assert_trains(model, batch())
    assert model.backbone.bottom_up.patch_embed1.proj.weight.grad.any()
