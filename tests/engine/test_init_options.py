# SPDX-License-Identifier: Apache-2.0
"""How first weights are loaded; the pixel statistics that they bring last as long as they do."""

from __future__ import annotations

import inspect
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from tests.engine import tiny_detector
from tests.engine.tiny_run import write_data
from vitdet_d2.backbones import ViT
from vitdet_d2.engine import init_options
from vitdet_d2.engine.arguments import parse_train
from vitdet_d2.engine.detector import load_detector
from vitdet_d2.engine.init_options import InitOptions, read_init_options
from vitdet_d2.engine.recipe_json import from_json
from vitdet_d2.engine.recipe_statistics import use_statistics
from vitdet_d2.engine.settings import read_settings
from vitdet_d2.errors import RecipeError, WeightsError
from vitdet_d2.pretrained import load
from vitdet_d2.pretrained.model_statistics import saved_statistics, statistics_of

MEAN, STD = [127.5, 127.5, 127.5], [64.0, 64.0, 64.0]  # of the quick start
IMAGENET_MEAN = [123.675, 116.28, 103.53]


def options(**given: Any) -> InitOptions:
    return read_init_options(OmegaConf.create({"train": {"init_options": given}}))


def test_defaults_are_those_of_the_loader() -> None:
    assert read_init_options(OmegaConf.create({})) == InitOptions()
    assert read_settings(tiny_detector.recipe()).init_options == InitOptions()
    assert options(source="mae", patch_resize=None).source == "mae"
    assert options(position_grid=[4, 6]).position_grid == (4, 6)


def test_every_argument_of_the_loader_is_reached_from_a_recipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What is read, where it goes, and what training and evaluation decide themselves.
    arguments = dict(inspect.signature(load).parameters)
    for name in ("model", "path_or_url", "content", "strict_heads"):
        del arguments[name]
    given = {
        "source": "dino", "layer_scale": "fold", "patch_resize": "bicubic",
        "position_grid": [3, 5], "absent_positions": "random",
        "allow_partial": True, "normalisation": "recipe",
    }  # fmt: skip
    assert set(given) == set(arguments)
    passed: dict[str, Any] = {}
    monkeypatch.setattr(init_options, "load", lambda *_, **how: passed.update(how))
    overrides = [f"train.init_options.{name}={value}" for name, value in given.items()]
    settings = read_settings(tiny_detector.recipe(*overrides))
    settings.init_options.load(torch.nn.Identity(), "x.pth")
    assert passed == {**given, "position_grid": (3, 5)}
    assert not [name for name, value in passed.items() if value == arguments[name].default]


def test_positions_of_a_map_that_is_no_square(tmp_path: Path) -> None:
    cfg = tiny_detector.recipe()
    state = encoder(cfg)
    state["pos_embed"] = state["pos_embed"][:, :15]
    torch.save({"model": state}, tmp_path / "wide.pth")
    model = instantiate(cfg.model)
    with pytest.raises(WeightsError, match=r"are no grid of .*; give the grid"):
        InitOptions().load(model, str(tmp_path / "wide.pth"))
    report = options(position_grid=[3, 5]).load(model, str(tmp_path / "wide.pth"))
    assert [name for name, _, _ in report.resized] == ["backbone.net.pos_embed"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layerscale": "fold"}, r"there is no 'layerscale'.*did you mean layer_scale"),
        ({"layer_scale": "drop"}, r"init_options\.layer_scale: expected one of auto, keep, fold"),
        ({"patch_resize": "nearest"}, r"expected one of pinv, bicubic, got 'nearest'"),
        ({"normalisation": True}, r"expected one of source, recipe, got True"),
        ({"allow_partial": "yes"}, r"allow_partial: expected true or false, got 'yes'"),
        ({"position_grid": 14}, r"position_grid: expected \[height, width\] in patches .*got 14"),
        ({"position_grid": [14, 0]}, r"expected \[height, width\] .*got \[14, 0\]"),
        ({"position_grid": [1, 2, 3]}, r"expected \[height, width\] .*got \[1, 2, 3\]"),
        ({"position_grid": [True, 4]}, r"expected \[height, width\] .*got \[True, 4\]"),
        ({"source": 3}, r"source: expected the name of a source or null, got 3"),
    ],
)
def test_wrong_values_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        options(**given)


def test_command_line() -> None:
    argv = ["--config-file", "x", "--allow-partial"]
    assert parse_train(argv).allow_partial
    with pytest.raises(RecipeError, match="--allow-partial is for training"):
        parse_train([*argv, "--eval-only"])


def encoder(cfg: Any, leave_out: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The ViT of a recipe as MAE would save it."""
    vit: ViT = instantiate(cfg.model.backbone.net)
    state = {n: v for n, v in vit.state_dict().items() if ".rel_pos_" not in n}
    return {name: value for name, value in state.items() if not name.startswith(leave_out)}


def test_less_of_the_backbone_is_an_error_unless_it_is_allowed(tmp_path: Path) -> None:
    cfg = tiny_detector.recipe()
    file = tmp_path / "part.pth"
    torch.save({"model": encoder(cfg, ("blocks.3.mlp.", "blocks.2.mlp."))}, file)
    model = instantiate(cfg.model)
    with pytest.raises(WeightsError, match="or allow it with --allow-partial"):
        InitOptions().load(model, str(file))
    report = InitOptions(allow_partial=True).load(model, str(file))
    assert report.verdict.startswith("only ")


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_statistics_go_from_weights_to_the_checkpoint_and_to_prediction(
    tmp_path: Path, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = [
        f"model.input_format={order}", f"dataloader.train.mapper.image_format={order}",
    ]  # fmt: skip
    cfg = tiny_detector.recipe(*overrides)
    torch.save({"model": encoder(cfg)}, tmp_path / "mae.pth")
    model = instantiate(cfg.model)
    wanted = IMAGENET_MEAN if order == "RGB" else IMAGENET_MEAN[::-1]

    InitOptions(source="mae", normalisation="recipe").load(model, str(tmp_path / "mae.pth"))
    assert statistics_of(model)["pixel_mean"] == MEAN
    InitOptions(source="mae").load(model, str(tmp_path / "mae.pth"))
    assert statistics_of(model)["pixel_mean"] == pytest.approx(wanted)
    assert "the recipe has mean (127.5, 127.5, 127.5)" in caplog.text

    use_statistics(cfg, model)
    assert list(cfg.model.pixel_mean) == pytest.approx(wanted)
    saved = {
        "schema": 1,
        "thing_classes": list(tiny_detector.CLASSES),
        "dataset_ids": list(tiny_detector.DATASET_IDS),
        **statistics_of(model),
    }
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": model.state_dict(), "vitdet_d2": saved}, path)
    # The recipe says otherwise, and the weights know better.
    with caplog.at_level(logging.WARNING):
        detector = load_detector(path, "quickstart", [*tiny_detector.OVERRIDES, *overrides], "cpu")
    assert statistics_of(detector.model)["pixel_mean"] == pytest.approx(wanted)
    assert "in the checkpoint" in caplog.text

    other = instantiate(tiny_detector.recipe("model.input_format=RGB").model)
    load(other, path)
    assert statistics_of(other)["pixel_mean"] == pytest.approx(IMAGENET_MEAN)


def test_recipes_that_say_the_same_stay_as_they_are() -> None:
    cfg = tiny_detector.recipe()
    before = OmegaConf.to_yaml(cfg.model.pixel_mean)
    use_statistics(cfg, instantiate(cfg.model))
    assert OmegaConf.to_yaml(cfg.model.pixel_mean) == before
    assert statistics_of(torch.nn.Linear(1, 1)) == {}
    for saved in (None, {}, {"pixel_mean": [1.0], "pixel_std": STD}, {"pixel_mean": "abc"}):
        assert saved_statistics(saved) is None


def test_a_run_keeps_them_when_it_is_resumed(tmp_path: Path) -> None:
    """One iteration on a few pictures, then another."""
    from vitdet_d2.engine import cli

    cfg = tiny_detector.recipe()
    torch.save({"model": encoder(cfg)}, tmp_path / "mae.pth")
    write_data(tmp_path)
    run = tmp_path / "run"
    argv = [
        "train", "--config-file", "quickstart", "--num-gpus", "0", "data.image_size=64",
        f"train.init_checkpoint={tmp_path}/mae.pth", "train.init_options.source=mae",
        f"train.output_dir={run}", "dataloader.train.total_batch_size=1", "train.pictures=0",
        "train.checkpointer.period=1", "~dataloader.evaluator",
        *(f"data.{part}_json={tmp_path}/tiny.json" for part in ("train", "val")),
        *(f"data.{part}_images={tmp_path}" for part in ("train", "val")),
    ]  # fmt: skip
    assert cli.main([*argv, "train.max_iter=1"]) == 0
    report = json.loads((run / "load_report.json").read_text())
    assert report["origin"] == "MAE"
    assert report["verdict"].startswith("all that MAE supplies: ")
    assert set(report["loaded"]).isdisjoint(report["initialised"])
    assert cli.main([*argv, "train.max_iter=2", "--resume"]) == 0
    recipe = from_json((run / "config.json").read_text(), "config.json")
    assert list(recipe.model.pixel_mean) == pytest.approx(IMAGENET_MEAN)
    state = torch.load(run / "model_final.pth", weights_only=True)["vitdet_d2"]
    assert state["pixel_mean"] == pytest.approx(IMAGENET_MEAN)
    assert state["input_format"] == "RGB"
    assert json.loads(state["recipe"])["model"]["pixel_mean"] == pytest.approx(IMAGENET_MEAN)
    log = (run / "log.txt").read_text()
    assert "A resumed run keeps its pixel statistics" in log
    assert "Recipe changed since the last start: model.pixel" not in log
