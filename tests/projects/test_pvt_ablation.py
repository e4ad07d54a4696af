# SPDX-License-Identifier: Apache-2.0
"""PVT's ablations: every row builds, and changes what its header says."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from vitdet_d2.analysis.published_pvt import FROM_SCRATCH, PVT_AP

ROOT = Path(__file__).parents[2]
REDUCTIONS = [(16, 8, 4, 2), (8, 4, 2, 1), (4, 2, 1, 1), (2, 1, 1, 1), (1, 1, 1, 1)]
R_ROWS = {f"pvt_r_{'_'.join(map(str, r))}": r for r in REDUCTIONS}
NAMES = ["pvt_deeper", "pvt_wider", "pvt_640", "pvt_scratch", *R_ROWS]


def load(name):
    return LazyConfig.load(str(ROOT / f"projects/{name}.py"))


def test_every_row_has_its_recipe_and_its_number():
    paths = (ROOT / "projects/ablation").glob("pvt_*.py")
    assert {path.stem for path in paths} == set(NAMES)
    for name in NAMES:
        text = (ROOT / f"projects/ablation/{name}.py").read_text()
        published = re.search(r"^Published: (?:([\d.]+) box AP|nothing)\b", text, re.M)
        box_ap, _ = PVT_AP.get(f"ablation/{name}", (None, None))
        assert published[1] == (None if box_ap is None else str(box_ap)), name
        assert "Not measured here yet." in text
        assert f"--config-file projects/ablation/{name}.py --num-gpus 8" in text


@pytest.mark.parametrize(("name", "classifier"), [("pvt_deeper", 44.2), ("pvt_wider", 46.8)])
def test_deeper_and_wider_have_the_published_parameters(name, classifier):
    """The paper counts the classifier: class token, last norm and a layer for 1000 classes."""
    cfg = load(f"ablation/{name}")
    with torch.device("meta"):
        net = instantiate(cfg.model.backbone.bottom_up)
    width = cfg.model.backbone.bottom_up.embed_dims[3]
    total = sum(p.numel() for p in net.parameters()) + 3 * width + 1000 * width + 1000
    assert total / 1e6 == pytest.approx(classifier, abs=0.05)


@pytest.mark.parametrize("name", R_ROWS)
def test_reduction_per_stage(name):
    cfg, plain = load(f"ablation/{name}"), load("retinanet_pvt_small")
    with torch.device("meta"):
        net = instantiate(cfg.model.backbone.bottom_up)
    kernels = {n: p.shape[-1] for n, p in net.named_parameters() if n.endswith("attn.sr.weight")}
    found = [kernels.get(f"block{stage}.0.attn.sr.weight", 1) for stage in (1, 2, 3, 4)]
    assert tuple(found) == R_ROWS[name]
    cfg.model.backbone.bottom_up.sr_ratios = plain.model.backbone.bottom_up.sr_ratios
    assert cfg.train.init_checkpoint == ""
    cfg.train.init_checkpoint = plain.train.init_checkpoint
    assert cfg == plain


def test_scale_and_weights():
    plain = load("retinanet_pvt_small")
    scaled = load("ablation/pvt_640")
    assert (scaled.data.short_edge_length, scaled.data.max_size) == (640, 1066)
    scaled.data = plain.data
    assert scaled == plain
    assert load("ablation/pvt_scratch") == load("ablation/pvt_r_8_4_2_1")
    for name in FROM_SCRATCH:
        assert load(name).train.init_checkpoint == ""
    assert load("ablation/pvt_deeper") == load("retinanet_pvt_medium")
