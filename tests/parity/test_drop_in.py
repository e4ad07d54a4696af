# SPDX-License-Identifier: Apache-2.0
"""Our LazyConfig backbone inside Detectron2's own panoptic FPN, beside Detectron2's backbone.

PYTHONPATH=DETECTRON2_CHECKOUT VITDET_D2_RUNTIME=installed \
    pytest -m parity tests/parity/test_drop_in.py
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import detectron2
import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig

from tests.projects.test_drop_in import SIDE, assert_trains, batch, documented_recipe, shrink
from vitdet_d2 import runtime
from vitdet_d2.backbones.vit import ViT
from vitdet_d2.necks.simple_feature_pyramid import SimpleFeaturePyramid

CHECKOUT = Path(detectron2.__file__).parents[1]
PANOPTIC = 'model = model_zoo.get_config("common/models/panoptic_fpn.py").model'

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(
        runtime.current().name != "installed" or not (CHECKOUT / "configs/common").is_dir(),
        reason="no checkout of Detectron2 with its recipes is installed",
    ),
    pytest.mark.filterwarnings("ignore:torch.meshgrid"),  # Detectron2's
]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    """Give the documented recipe with the line that the document replaces."""
    # Detectron2's model zoo imports a module that current environments lack, and looks for its
    # recipes where only an installation puts them.
    stand_in = types.SimpleNamespace(
        resource_filename=lambda _, path: str(CHECKOUT / path.removeprefix("model_zoo/"))
    )
    monkeypatch.setitem(sys.modules, "pkg_resources", stand_in)
    assert PANOPTIC in (Path(__file__).parents[2] / "docs/drop_in.md").read_text()
    return shrink(documented_recipe(tmp_path, model=PANOPTIC))


def theirs(recipe: DictConfig) -> Any:
    """Return the same model with Detectron2's ViT and pyramid."""
    from detectron2.modeling import SimpleFeaturePyramid as TheirPyramid
    from detectron2.modeling import ViT as TheirViT

    recipe.model.backbone._target_ = TheirPyramid
    recipe.model.backbone.net._target_ = TheirViT
    recipe.model.backbone.net.norm_layer = instantiate(recipe.model.backbone.net.norm_layer)
    return instantiate(recipe.model)


def test_panoptic_fpn_trains_with_our_backbone(recipe: DictConfig) -> None:
    torch.manual_seed(0)
    model = instantiate(recipe.model)
    assert type(model).__module__ == "detectron2.modeling.meta_arch.panoptic_fpn"
    assert type(model.backbone) is SimpleFeaturePyramid
    assert type(model.backbone.net) is ViT
    losses = assert_trains(model, batch(with_stuff=True))
    assert {"loss_sem_seg", "loss_mask", "loss_rpn_loc"} <= losses.keys()


def test_panoptic_fpn_computes_what_it_does_with_detectron2s_backbone(recipe: DictConfig) -> None:
    torch.manual_seed(0)
    ours = instantiate(recipe.model)
    reference = theirs(recipe)
    reference.load_state_dict(ours.state_dict(), strict=True)
    results = []
    for model in (ours, reference):
        model.train()
        torch.manual_seed(5)  # sampling of anchors and proposals
        with EventStorage():
            losses = model(batch(with_stuff=True))
        model.eval()
        with torch.no_grad():
            results.append((losses, model(batch())))
    (our_losses, our_outputs), (their_losses, their_outputs) = results
    # Our attention is fused: rounding differs.
    torch.testing.assert_close(our_losses, their_losses, rtol=1e-4, atol=1e-5)
    for mine, other in zip(our_outputs, their_outputs, strict=True):
        torch.testing.assert_close(mine["sem_seg"], other["sem_seg"], rtol=1e-3, atol=1e-4)
        assert torch.equal(mine["panoptic_seg"][0], other["panoptic_seg"][0])
        assert mine["panoptic_seg"][1] == other["panoptic_seg"][1]
        assert mine["panoptic_seg"][0].shape[0] in (40, SIDE)
