# SPDX-License-Identifier: Apache-2.0
"""yacs configurations: defaults, models, solvers, loaders and a training, on both runtimes.

The installed side is the drop-in: Detectron2's own `DefaultTrainer` trains our backbone by name.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import detectron2
import pytest
import torch

from tests.parity.two_runtimes import run_yacs_in_process
from vitdet_d2 import runtime

pytestmark = [
    pytest.mark.parity,
    pytest.mark.slow,
    pytest.mark.skipif(
        runtime.current().name != "installed", reason="Detectron2 is not installed (or not chosen)"
    ),
]

# Its own files, where a checkout is installed.
CONFIGS = Path(detectron2.__file__).parents[1] / "configs"
MODELS = "mask_rcnn faster_rcnn agnostic cascade pred_boxes proposals one_map".split()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the two runtimes give."""
    ours, theirs = (
        run_yacs_in_process(name, tmp_path_factory.mktemp(name), CONFIGS)
        for name in ("bundled", "installed")
    )
    return ours, theirs


def test_keys_and_defaults_equal_detectron2(both: Any) -> None:
    ours, theirs = both
    assert len(theirs["defaults"]) > 150
    assert ours["defaults"] == theirs["defaults"]


@pytest.mark.skipif(not CONFIGS.is_dir(), reason="no checkout of Detectron2 is installed")
def test_its_own_files_merge_as_in_detectron2(both: Any) -> None:
    ours, theirs = both
    assert len(theirs["files"]) > 80
    assert ours["files"] == theirs["files"]


@pytest.mark.parametrize("name", MODELS)
def test_models_equal_detectron2(both: Any, name: str) -> None:
    ours, theirs = (side["models"][name] for side in both)
    assert list(ours["shapes"].items()) == list(theirs["shapes"].items())
    assert list(ours["losses"]) == list(theirs["losses"])
    for key, loss in theirs["losses"].items():
        assert ours["losses"][key] == pytest.approx(loss, rel=1e-5), key
    for a, b in zip(ours["found"], theirs["found"], strict=True):
        assert a.keys() == b.keys()
        assert len(next(iter(b.values()))) >= 100
        for field, value in b.items():
            if field == "pred_masks":  # a pixel on the threshold may fall on either side
                assert int((a[field] != value).sum()) <= 1e-3 * int(value.sum())
            else:
                # Boxes in pixels of a 64-pixel image, after two closed-form convolutions each.
                torch.testing.assert_close(a[field], value, rtol=1e-5, atol=1e-3)


def test_optimizers_and_schedules_equal_detectron2(both: Any) -> None:
    ours, theirs = both
    assert len(theirs["solvers"]) == 3
    assert ours["solvers"] == theirs["solvers"]
    assert theirs["solvers"][0]["type"] == "SGDWithGradientClip"
    assert theirs["solvers"][0]["gradients"] == [1.0]


def test_order_of_the_data_equals_detectron2(both: Any) -> None:
    ours, theirs = both
    assert ours["order"] == theirs["order"]


def test_default_trainer_trains_our_backbone_the_same(both: Any) -> None:
    ours, theirs = (side["script"] for side in both)
    assert theirs["iteration"] == 2
    assert ours["rates"] == theirs["rates"]
    assert list(ours["weights"]) == list(theirs["weights"])
    for name, value in theirs["weights"].items():
        # Three steps of AdamW from the same seed.
        torch.testing.assert_close(ours["weights"][name], value, rtol=1e-5, atol=1e-7)
    assert ours["metrics"].keys() == theirs["metrics"].keys()
    for name, value in theirs["metrics"].items():
        same = math.isnan(value) and math.isnan(ours["metrics"][name])
        assert same or ours["metrics"][name] == pytest.approx(value, abs=1e-6), name
