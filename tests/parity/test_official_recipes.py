# SPDX-License-Identifier: Apache-2.0
"""Detectron2's official ViTDet recipes, unchanged, on the bundled runtime and on Detectron2.

PYTHONPATH=DETECTRON2_CHECKOUT VITDET_D2_RUNTIME=installed \
    pytest -m parity tests/parity/test_official_recipes.py

They are read from the checkout that stands around the installed package.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import detectron2
import pytest

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
