# SPDX-License-Identifier: Apache-2.0
"""A name in, a recipe or a working model out."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

import vitdet_d2
from tests.zoo.bad_server import BadServer
from tests.zoo.released_layout import write_empty
from vitdet_d2 import zoo
from vitdet_d2.errors import RecipeError
from vitdet_d2.zoo import catalogue
from vitdet_d2.zoo.recipe_names import recipe_names


def test_get_config_is_the_recipe() -> None:
    for name in ("vitdet_l", "COCO/mask_rcnn_vitdet_l", "COCO/mask_rcnn_vitdet_l_100ep"):
        cfg = zoo.get_config(name)
        assert cfg.model.backbone.net.embed_dim == 1024
        assert cfg.train.max_iter == 184375
    assert zoo.get_config("vitdet_ti").model.backbone.net.embed_dim == 192
    with pytest.raises(RecipeError, match="did you mean vitdet_l"):
        zoo.get_config("vitdt_l")


@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")  # an installed Detectron2
def test_a_recipe_without_a_checkpoint_has_no_trained_model() -> None:
    with pytest.raises(RecipeError, match="no checkpoint of the recipe 'vitdet_ti' was released"):
        zoo.get("vitdet_ti")
    model = zoo.get("vitdet_ti", trained=False, device="cpu")
    assert not model.training
    image = torch.full((3, 64, 96), 100.0)
    model.backbone._square_pad = 0
    with torch.no_grad():
        [result] = model([{"image": image, "height": 128, "width": 192}])
    assert result["instances"].image_size == (128, 192)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")  # an installed Detectron2
def test_get_downloads_loads_and_runs(
    server: BadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file.pkl"
    write_empty(file, "vitdet_b")
    prefix = hashlib.md5(file.read_bytes()).hexdigest()[:6]
    row = dataclasses.replace(zoo.find("vitdet_b"), hash_prefix=prefix)
    monkeypatch.setattr(catalogue, "RELEASED", (row,))
    server.files[f"/ViTDet/{row.path}"] = file.read_bytes()
    for _ in range(2):
        model = zoo.get("COCO/mask_rcnn_vitdet_b", device="cpu")
    assert len(server.requests) == 1
    assert not model.training
    assert isinstance(model, nn.Module)
    assert all(not value.any() for value in model.state_dict().values())
    model.backbone._square_pad = 0
    with torch.no_grad():
        [result] = model([{"image": torch.full((3, 64, 64), 100.0)}])
    assert len(result["instances"]) == 0, "equal scores of 81 classes are below the threshold"


def test_inference_needs_no_class_frequencies() -> None:
    predictor = {
        "use_fed_loss": True,
        "use_sigmoid_ce": True,
        "get_fed_loss_cls_weights": "missing.module",
        "num_classes": "${model.roi_heads.num_classes}",
    }
    recipe = DictConfig(
        {
            "model": {
                "roi_heads": {
                    "num_classes": 1203,
                    "box_predictors": [dict(predictor) for _ in range(3)],
                    "box_predictor": dict(predictor),
                }
            }
        }
    )
    OmegaConf.set_struct(recipe, True)
    heads = zoo.for_inference(recipe.model).roi_heads
    expected = {"use_fed_loss": False, "use_sigmoid_ce": True, "num_classes": 1203}
    assert [*heads.box_predictors, heads.box_predictor] == [expected] * 4
    assert recipe.model.roi_heads.box_predictor.use_fed_loss, "the recipe is left as it is"


def test_prediction_downloads_no_weights_of_timm() -> None:
    recipe = zoo.get_config("cascade_swin_b")
    recipe.model.backbone.bottom_up.pretrained = True
    assert not zoo.for_inference(recipe.model).backbone.bottom_up.pretrained
    assert recipe.model.backbone.bottom_up.pretrained, "the recipe is left as it is"


def test_parts_of_the_package_are_there_without_an_import() -> None:
    assert vitdet_d2.__getattr__("zoo") is zoo
    with pytest.raises(AttributeError, match="has no attribute 'zooo'"):
        vitdet_d2.__getattr__("zooo")


def test_every_row_has_its_recipe() -> None:
    assert {entry.name for entry in zoo.RELEASED} <= set(recipe_names())
    for entry in zoo.RELEASED:
        for name in (entry.name, *entry.aliases):
            assert zoo.get_config(name).model.roi_heads.num_classes == entry.num_classes
