# SPDX-License-Identifier: Apache-2.0
"""Detectron2's official ViTDet recipes, unchanged, on the bundled runtime and on Detectron2.

PYTHONPATH=DETECTRON2_CHECKOUT VITDET_D2_RUNTIME=installed \
    pytest -m parity tests/parity/test_official_recipes.py

They are read from the checkout that stands around the installed package.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import detectron2
import pytest
from PIL import Image

from vitdet_d2 import runtime

CHECKOUT = Path(detectron2.__file__).parents[1]
NAMES = [
    f"{data}/{prefix}mask_rcnn_vitdet_{size}_{epochs}ep.py"
    for data, schedule in (("COCO", "75"), ("LVIS", "100"))
    for prefix in ("cascade_", "")
    for size, epochs in (("b", "100"), ("h", schedule), ("l", "100"))
]

pytestmark = [
    pytest.mark.parity,
    pytest.mark.slow,
    pytest.mark.skipif(
        runtime.current().name != "installed"
        or not (CHECKOUT / "projects/ViTDet/configs").is_dir(),
        reason="no checkout of Detectron2 with its projects is installed",
    ),
]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Give what every recipe becomes, by runtime."""
    folder = tmp_path_factory.mktemp("official")
    for name in ("bundled", "installed"):
        subprocess.run(
            [sys.executable, "-m", "tests.parity.official_recipes_case",
             str(CHECKOUT), str(folder / name)],
            env={**os.environ, "VITDET_D2_RUNTIME": name},
            cwd=Path(__file__).parents[2],
            check=True,
        )  # fmt: skip
    return {name: json.loads((folder / name).read_text()) for name in ("bundled", "installed")}


def test_all_twelve_load(described: dict[str, Any]) -> None:
    assert list(described["bundled"]) == list(described["installed"]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_model(described: dict[str, Any], name: str) -> None:
    ours, theirs = (described[key][name] for key in ("bundled", "installed"))
    for part in ("state", "trainable", "buffers", "anchors", "pixels"):
        assert ours[part] == theirs[part], part
    assert len(theirs["state"]) > 200
    # Ours may have more of them: the window's size, for instance, stands in two places.
    settings = {key: ours["settings"].get(key) for key in theirs["settings"]}
    assert settings == theirs["settings"]
    kinds = {key.rpartition(":")[2] for key in settings}
    assert {"drop_prob", "thresholds", "weights", "test_score_thresh", "nms_thresh"} <= kinds
    if "cascade" in name:
        thresholds = [settings[f"roi_heads.proposal_matchers[{i}]:thresholds"][1] for i in range(3)]
        assert thresholds == [0.5, 0.6, 0.7]


@pytest.mark.parametrize("name", NAMES)
def test_optimizer_groups_and_learning_rates(described: dict[str, Any], name: str) -> None:
    ours, theirs = (described[key][name] for key in ("bundled", "installed"))
    assert ours["optimizer"] == theirs["optimizer"] == "AdamW"
    assert ours["groups"] == theirs["groups"]
    assert len(theirs["groups"]) > 10
    assert ours["rates"] == theirs["rates"]
    assert theirs["rates"][0] == [0, 0.001]
    assert theirs["rates"][-1][1] == pytest.approx(0.01)
    assert ours["train"] == theirs["train"]


@pytest.mark.parametrize("name", NAMES)
def test_loaders_and_evaluator(described: dict[str, Any], name: str) -> None:
    ours, theirs = (described[key][name] for key in ("bundled", "installed"))
    assert_same_calls(ours["loader"], theirs["loader"], "dataloader")


def assert_same_calls(ours: Any, theirs: Any, path: str) -> None:
    """Compare calls by name, given arguments, and defaults that both spell out."""
    if isinstance(theirs, dict) and "call" in theirs:
        assert ours["call"].rpartition(".")[2] == theirs["call"].rpartition(".")[2], path
        assert_same_calls(ours["given"], theirs["given"], path)
        shared = ours["defaults"].keys() & theirs["defaults"].keys()
        for key in shared:
            assert_same_calls(ours["defaults"][key], theirs["defaults"][key], f"{path}.{key}")
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), path
        for key in theirs:
            assert_same_calls(ours[key], theirs[key], f"{path}.{key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), path
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same_calls(a, b, f"{path}[{number}]")
    else:
        assert ours == theirs, path


TOY = (
    "train.init_checkpoint=", "train.max_iter=1", "train.checkpointer.period=1",
    "train.eval_period=0", "model.backbone.net.embed_dim=32", "model.backbone.net.depth=2",
    "model.backbone.net.num_heads=2", "model.backbone.net.window_block_indexes=[0]",
    "model.backbone.net.img_size=64", "model.backbone.square_pad=64",
    "model.roi_heads.num_classes=6", "dataloader.train.total_batch_size=1",
    "dataloader.train.num_workers=0", "dataloader.test.num_workers=0",
    "dataloader.train.mapper.augmentations.1.target_height=64",
    "dataloader.train.mapper.augmentations.1.target_width=64",
    "dataloader.train.mapper.augmentations.2.crop_size=[64,64]",
    "dataloader.test.mapper.augmentations.0.short_edge_length=64",
    "dataloader.test.mapper.augmentations.0.max_size=64",
)  # fmt: skip


def write_lvis(root: Path) -> None:
    """LVIS's layout below ``root``: two blank pictures of 64 pixels, two classes of six in each."""
    square = {
        "bbox": [8, 8, 40, 40],
        "area": 1600.0,
        "segmentation": [[8, 8, 48, 8, 48, 48, 8, 48]],
    }
    document = {
        "images": [
            {
                "id": i,
                "coco_url": f"http://images.cocodataset.org/val2017/{i}.jpg",
                "height": 64,
                "width": 64,
                "neg_category_ids": [5],
                "not_exhaustive_category_ids": [],
            }
            for i in (1, 2)
        ],
        "annotations": [
            {"id": 2 * i + c, "image_id": i, "category_id": c, **square}
            for i in (1, 2)
            for c in (1, 2)
        ],
        "categories": [
            {"id": c, "name": f"c{c}", "synonyms": [], "frequency": "rcf"[c % 3], "image_count": c}
            for c in range(1, 7)
        ],
    }
    for folder in ("lvis", "coco/val2017"):
        (root / folder).mkdir(parents=True)
    for split in ("train", "val"):
        (root / f"lvis/lvis_v1_{split}.json").write_text(json.dumps(document))
    for i in (1, 2):
        Image.new("RGB", (64, 64)).save(root / f"coco/val2017/{i}.jpg")


@pytest.mark.parametrize("name", ["mask_rcnn_vitdet_b_100ep", "cascade_mask_rcnn_vitdet_b_100ep"])
def test_training_an_official_lvis_recipe_and_resuming(tmp_path: Path, name: str) -> None:
    """It holds a lambda, which must be neither in the way of saving nor taken for a change."""
    write_lvis(tmp_path)
    predictors = (
        [f"box_predictors.{i}" for i in range(3)] if "cascade" in name else ["box_predictor"]
    )
    few = [f"model.roi_heads.{p}.test_topk_per_image=2" for p in predictors]
    command = [
        sys.executable, "train_net.py", "--num-gpus", "0", "--config-file",
        str(CHECKOUT / f"projects/ViTDet/configs/LVIS/{name}.py"),
    ]  # fmt: skip
    outputs = []
    for extra in ((), ("--resume", "train.max_iter=2")):
        options = [option for option in extra if option.startswith("--")]
        overrides = [option for option in extra if not option.startswith("--")]
        done = subprocess.run(
            [*command, *options, *TOY, *few, *overrides, f"train.output_dir={tmp_path / 'run'}"],
            env={
                **os.environ,
                "VITDET_D2_RUNTIME": "bundled",
                "DETECTRON2_DATASETS": str(tmp_path),
                "OMP_NUM_THREADS": "1",
            },
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout + done.stderr)
    assert "LVIS evaluation" in outputs[0]
    assert f"<lambda> ({name}.py, line" in (tmp_path / "run/config.json").read_text()
    changed = re.findall(r"Recipe changed since the last start: (\S+):", outputs[1])
    assert changed == ["train.max_iter"]
    assert "model_0000000.pth at iteration 1" in outputs[1]
