# SPDX-License-Identifier: Apache-2.0
"""docs/yacs.md: its file builds the recipe's model, its script trains, its tables are complete."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from detectron2.config import CfgNode, get_cfg, instantiate
from detectron2.modeling import build_model
from omegaconf import OmegaConf
from torch import nn

from tests.yacs_run import OVERRIDES, last_metrics, registered_toys
from vitdet_d2 import runtime
from vitdet_d2.backbones import add_vitdet_config
from vitdet_d2.backbones.pvt_options import pvt_defaults
from vitdet_d2.backbones.timm_options import timm_defaults
from vitdet_d2.backbones.yacs_options import SOLVER_DEFAULTS, sfp_defaults, vit_defaults
from vitdet_d2.engine.recipes import load_recipe
from vitdet_d2.solver import build_optimizer

# An installed Detectron2 has warnings of its own: meshgrid without indexing, a file left open.
OF_DETECTRON2 = runtime.current().name == "installed"
pytestmark = [pytest.mark.filterwarnings("default")] if OF_DETECTRON2 else []

TEXT = (Path(__file__).parents[1] / "docs/yacs.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
    assert found, language
    return found[1]


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    path = tmp_path / "vitdet_b.yaml"
    path.write_text(block("yaml"))
    cfg = get_cfg()
    add_vitdet_config(cfg)
    cfg.merge_from_file(str(path))
    return cfg


def settings(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, tuple[Any, ...]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    keys = ("lr", "weight_decay", "betas", "eps")
    return {
        names[id(parameter)]: tuple(group[key] for key in keys)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def plain_attributes(model: nn.Module) -> dict[str, Any]:
    """What modules remember as numbers and words, by name."""
    found = {}
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Sequence) and not isinstance(value, str):
                value = tuple(map(repr, value))  # a list of yacs, a tuple, a list of OmegaConf
            is_plain = isinstance(value, int | float | str | tuple)
            if name in ("pre_nms_topk", "post_nms_topk") or (is_plain and name[0] != "_"):
                found[f"{prefix}.{name}"] = value
    return found


def test_the_file_is_the_recipe(cfg: CfgNode) -> None:
    recipe = load_recipe("vitdet_b", [], eval_only=False)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        ours, theirs = build_model(cfg), instantiate(recipe.model)
    assert [(n, p.shape) for n, p in ours.named_parameters()] == [
        (n, p.shape) for n, p in theirs.named_parameters()
    ]
    mine, wanted = plain_attributes(ours), plain_attributes(theirs)
    differing = {k for k in mine.keys() | wanted.keys() if mine.get(k) != wanted.get(k)}
    # The file builds Detectron2's own RPN and heads, whose proposals have no empty places.
    assert differing == {"proposal_generator.pad_proposals"}
    recipe.optimizer.params.model = theirs
    expected = settings(instantiate(recipe.optimizer), theirs)
    assert settings(build_optimizer(cfg, ours), ours) == expected


def test_the_retinanets_build(tmp_path: Path) -> None:
    _, *blocks = re.findall(r"^```yaml\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for text in blocks:
        path = tmp_path / "retinanet.yaml"
        path.write_text("VERSION: 2\n" + text.replace("PRETRAINED: true", "PRETRAINED: false"))
        cfg = get_cfg()
        add_vitdet_config(cfg)
        cfg.merge_from_file(str(path))
        cfg.MODEL.DEVICE = "meta"
        recipe = load_recipe("retinanet_pvt_v2_b2", [])
        with torch.device("meta"):
            ours, theirs = build_model(cfg), instantiate(recipe.model)
        cells, expected = (m.anchor_generator.num_anchors for m in (ours, theirs))
        assert list(cells) == list(expected) == [9] * 5
        if "PVT" in text:
            recipe.optimizer.params.model = theirs
            expected = settings(instantiate(recipe.optimizer), theirs)
            assert settings(build_optimizer(cfg, ours), ours) == expected
            mine, wanted = plain_attributes(ours), plain_attributes(theirs)
            differing = {k for k in mine.keys() | wanted.keys() if mine.get(k) != wanted.get(k)}
            assert not differing
        for key in ("pixel_mean", "pixel_std", "input_format"):
            wanted = OmegaConf.select(recipe, f"model.{key}")
            found = {"input_format": cfg.INPUT.FORMAT}.get(key, cfg.MODEL.get(key.upper()))
            assert found == wanted, key


def test_mask_rcnn_stands_on_the_other_backbone(cfg: CfgNode) -> None:
    """As the text above RetinaNet's file says: its backbone in the first file."""
    text = re.findall(r"^```yaml\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)[-1]
    node = yaml.safe_load(text)["MODEL"]
    cfg.MODEL.BACKBONE.NAME = node["BACKBONE"]["NAME"]
    cfg.MODEL.PVT.merge_from_other_cfg(CfgNode(node["PVT"]))
    cfg.MODEL.PVT.TOP_BLOCK = "LastLevelMaxPool"
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    assert list(model.backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    assert model.roi_heads.mask_on


def test_the_script_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "train_yacs.py"
    script.write_text(block("python"))
    yaml_file = tmp_path / "vitdet_b.yaml"
    yaml_file.write_text(block("yaml"))
    arguments = ["--config-file", str(yaml_file), "--num-gpus", "0", *OVERRIDES]
    arguments += ["OUTPUT_DIR", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    with registered_toys(tmp_path):
        runpy.run_path(str(script), run_name="__main__")
    metrics = last_metrics(tmp_path / "out")
    assert {"segm/AP", "bbox/AP-roof"} <= metrics.keys()
    assert metrics["iteration"] == 3  # after the last step
    assert (tmp_path / "out" / "model_final.pth").is_file()
    saved = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert saved["MODEL"]["VIT"]["DEPTH"] == 2


def test_the_large_scale_jitter(cfg: CfgNode, tmp_path: Path) -> None:
    _, code, _ = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
    cfg.merge_from_list(OVERRIDES)
    names: dict[str, Any] = {"cfg": cfg}
    with registered_toys(tmp_path):
        exec(code.replace("1024", "64"), names)
        batch = next(iter(names["loader"]))
    assert [max(x["image"].shape[1:]) <= 64 for x in batch] == [True, True]
    assert batch[0]["instances"].has("gt_masks")


def test_every_option_is_documented() -> None:
    first_cells = re.findall(r"^\| (`[A-Z].*?) \|", TEXT, flags=re.MULTILINE)
    named = {name for cell in first_cells for name in re.findall(r"`([A-Z_.]+)`", cell)}
    options = {*vit_defaults(), *sfp_defaults(), *timm_defaults(), *pvt_defaults()}
    assert options | {f"SOLVER.{key}" for key in SOLVER_DEFAULTS} <= named
    assert {name for name in named if "." not in name} <= options
