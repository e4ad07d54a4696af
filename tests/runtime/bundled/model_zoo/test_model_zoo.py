# SPDX-License-Identifier: Apache-2.0
"""The recipe parts that Detectron2's own ViTDet recipes use."""

from __future__ import annotations

import hashlib
import json

import pytest
from detectron2 import model_zoo
from detectron2.config import instantiate
from omegaconf import OmegaConf

from vitdet_d2.engine.recipe_json import encode

pytestmark = pytest.mark.skipif(
    not hasattr(model_zoo.model_zoo, "_CONFIGS"), reason="tests the bundled runtime"
)

# Beginnings of the SHA-256 of the parts as sorted JSON with targets by name, measured on
# Detectron2 02b5c4e.
MEASURED = {
    "common/train.py:train": "9b27413ec7924c82",
    "common/optim.py:SGD": "56803976eb7fcf30",
    "common/optim.py:AdamW": "c8bf1c7ec955c520",
    "common/coco_schedule.py:lr_multiplier_1x": "cd8eb4e0ab8b5170",
    "common/coco_schedule.py:lr_multiplier_2x": "5a205c85f83bfd61",
    "common/coco_schedule.py:lr_multiplier_3x": "7772371a26b41d69",
    "common/coco_schedule.py:lr_multiplier_6x": "7f0ebb31673e1d69",
    "common/coco_schedule.py:lr_multiplier_9x": "00b052dbd93e43bd",
    "common/data/coco.py:dataloader": "ee1b6fbba4807457",
    "common/data/constants.py:constants": "dbaf318ee1b7c341",
    "common/models/mask_rcnn_fpn.py:model": "d42b3d2c6fcfae2a",
    "common/models/mask_rcnn_vitdet.py:model": "d9519be1d6701e91",
    "common/models/retinanet.py:model": "f2c240651a260c5a",
}
# Ours stand behind these names.
SAME = {"vitdet_d2.necks.": "detectron2.modeling.", "vitdet_d2.backbones.": "detectron2.modeling."}


def digest(part: str) -> str:
    file, _, key = part.partition(":")
    container = OmegaConf.to_container(model_zoo.get_config(file)[key], resolve=False)
    text = json.dumps(encode(container), sort_keys=True)
    for ours, theirs in SAME.items():
        text = text.replace(ours, theirs)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("part", MEASURED)
def test_parts_equal_detectron2s(part: str) -> None:
    assert digest(part) == MEASURED[part]


def test_parts_that_are_not_there() -> None:
    with pytest.raises(RuntimeError, match=r"which has common/coco_schedule.py, common/data"):
        model_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.py")
    with pytest.raises(RuntimeError, match="not in the model zoo"):
        model_zoo.get_config_file("../model_zoo.py")
    with pytest.raises(RuntimeError, match=r"no trained weights for common/train\.py"):
        model_zoo.get_config("common/train.py", trained=True)


def test_schedule_can_be_built() -> None:
    schedule = instantiate(model_zoo.get_config("common/coco_schedule.py").lr_multiplier_3x)
    assert schedule(0.0) == pytest.approx(0.001)
    assert schedule(0.5) == 1.0
    assert schedule(0.999) == pytest.approx(0.01)
