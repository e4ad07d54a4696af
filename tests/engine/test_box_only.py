# SPDX-License-Identifier: Apache-2.0
"""Annotations without any segmentation, through ``train_net.py``: trained and scored on boxes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.engine.tiny_run import write_data
from tests.engine.zygote import Zygote

# A detector of a second or two.
_NET = "model.backbone.net"
SMALL = [
    "data.image_size=64",
    f"{_NET}.embed_dim=16",
    f"{_NET}.depth=2",
    f"{_NET}.num_heads=2",
    f"{_NET}.window_size=2",
    f"{_NET}.window_block_indexes=[0]",
    "model.backbone.out_channels=8",
    "model.proposal_generator.head.in_channels=8",
    "model.roi_heads.batch_size_per_image=8",
    "optimizer.params.lr_factor_func=null",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "train.init_checkpoint=",
    "train.device=cpu",
    "train.max_iter=3",
    "train.log_period=1",
    "train.seed=0",
]
LEFT_OUT = [
    "model.roi_heads.mask_in_features=null",
    "dataloader.train.mapper.use_instance_mask=false",
    "dataloader.train.mapper.recompute_boxes=false",
]


def _small_heads(keys: list[str]) -> list[str]:
    shape = "{input_shape: {channels: 8}, conv_dims: [8], fc_dims: [16]}"
    heads = [f"model.roi_heads.{key.format('head', 's')}={shape}" for key in keys]
    predictors = [f"model.roi_heads.{key.format('predictor', 's')}" for key in keys]
    return heads + [f"{key}.input_shape.channels=16" for key in predictors]


CASCADE = _small_heads([f"box_{{}}{{}}.{i}" for i in range(3)])
SINGLE = _small_heads(["box_{}"])


@pytest.fixture
def boxes_only(tmp_path: Path) -> list[str]:
    """Overrides that name a data set whose annotations have no ``segmentation``."""
    write_data(tmp_path)
    path = tmp_path / "tiny.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    path.write_text(json.dumps(content))
    return [
        f"data.{split}_{key}={value}"
        for split in ("train", "val")
        for key, value in (("json", path), ("images", tmp_path))
    ]


@pytest.mark.parametrize(
    ("recipe", "overrides", "losses"),
    [
        ("faster_rcnn_vitdet_b", SINGLE, ["loss_cls", "loss_box_reg"]),
        (
            "cascade_vitdet_b",
            CASCADE + LEFT_OUT,
            [f"loss_{part}_stage{i}" for part in ("cls", "box_reg") for i in range(3)],
        ),
    ],
)
def test_trains_and_evaluates(
    recipe: str,
    overrides: list[str],
    losses: list[str],
    boxes_only: list[str],
    zygote: Zygote,
    tmp_path: Path,
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    argv = ["--config-file", recipe, "--num-gpus", "0", f"train.output_dir={run}"]
    argv += [*SMALL, *overrides, *boxes_only]
    zygote.run("vitdet_d2.engine.cli:main_train", log, argv=argv)
    assert (run / "model_final.pth").exists(), log.read_text()
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    logged = {name for line in lines for name in line}
    assert {*losses, "loss_rpn_cls", "loss_rpn_loc", "bbox/AP"} <= logged
    assert not [name for name in logged if "mask" in name or "segm" in name]


def test_trained_weights_are_tested_on_larger_images_with_soft_nms(
    boxes_only: list[str], zygote: Zygote, tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    recipe = ["--config-file", "faster_rcnn_vitdet_b", "--num-gpus", "0"]
    recipe += [f"train.output_dir={run}", *SMALL, *SINGLE, *boxes_only, "train.max_iter=1"]
    zygote.run("vitdet_d2.engine.cli:main_train", log, argv=recipe)
    soft = "vitdet_d2.heads.SoftNMSFastRCNNOutputLayers"
    larger = ["--weights", str(run / "model_final.pth"), *recipe, "data.test_image_size=96"]
    results = tmp_path / "larger"
    larger += [f"model.roi_heads.box_predictor._target_={soft}", f"train.output_dir={results}"]

    def evaluate(*more: str) -> str:
        words = ["eval", *larger, *more]
        zygote.run("vitdet_d2.engine.cli:main", log, argv=words)
        return log.read_text().splitlines()[-1]

    assert "does not fit the square of 64" in evaluate()
    assert "error" not in evaluate("model.backbone.square_pad=96")
    assert "bbox" in (results / "inference" / "results.json").read_text()


@pytest.mark.parametrize("recipe", ["vitdet_b", "cascade_vitdet_b"])
def test_a_recipe_with_masks_refuses_and_names_the_cures(
    recipe: str, boxes_only: list[str], zygote: Zygote, tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    argv = ["--config-file", recipe, "--num-gpus", "0", f"train.output_dir={run}", *boxes_only]
    argv.append("train.init_checkpoint=")  # nothing is fetched
    zygote.run("vitdet_d2.engine.cli:main_train", log, argv=argv)
    message = log.read_text().splitlines()[-1]
    assert message.startswith("error: ")
    assert "7 instances have no 'segmentation'" in message
    assert "faster_rcnn_vitdet_b" in message
    for override in LEFT_OUT:
        key, _, value = override.partition("=")
        assert f"{key}={value}" in message
