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

# SHA-256 of the parts as sorted JSON with targets by name, measured on Detectron2 02b5c4e.
MEASURED = {
    "common/train.py:train": "9b27413ec7924c826f6878575d16a47287aed0969795f4c57feb3438b589cd52",
    "common/optim.py:SGD": "56803976eb7fcf302010033a575afa4e346863ad20054c57de8066693a6bdf3e",
    "common/optim.py:AdamW": "c8bf1c7ec955c52097a0351aa43759af1ac72d63ab76ade3bdaf3f270ccf2b4f",
    "common/coco_schedule.py:lr_multiplier_1x": "cd8eb4e0ab8b51701f6b578bafd8ab8720e91e04e8b67bb9b75dd2d1062a65ee",
    "common/coco_schedule.py:lr_multiplier_2x": "5a205c85f83bfd61928a6f3ab9cefc5e83a5fdd25b724459d745b5148c01a246",
    "common/coco_schedule.py:lr_multiplier_3x": "7772371a26b41d69cdf9917eece0bbf8a6259bd6c4bd71a67cad9886543ab221",
    "common/coco_schedule.py:lr_multiplier_6x": "7f0ebb31673e1d699313e74c92e1763f0679fd3b185a19e914ae06d8da0e15b3",
    "common/coco_schedule.py:lr_multiplier_9x": "00b052dbd93e43bd724f4f735f259c031e43d4c77d9c5db43a4be4c16ac8506b",
    "common/data/coco.py:dataloader": "ee1b6fbba480745725c6eb58dd0d8de9d33693390915c03d80c6f31db278aca1",
    "common/data/constants.py:constants": "dbaf318ee1b7c3410875d38709a75c2e0afa41f0a69758a4fab31c2b8be5c65e",
    "common/models/mask_rcnn_fpn.py:model": "d42b3d2c6fcfae2aa7f2cd327f52f11825e214800d72bb34d9f049e41e60eefe",
    "common/models/mask_rcnn_vitdet.py:model": "d9519be1d6701e914ca92f93d73bcb886191f53fa4279b07c12dffb1d7d72c84",
}
# Ours stand behind these names.
SAME = {"vitdet_d2.necks.": "detectron2.modeling.", "vitdet_d2.backbones.": "detectron2.modeling."}


def digest(part: str) -> str:
    file, _, key = part.partition(":")
    container = OmegaConf.to_container(model_zoo.get_config(file)[key], resolve=False)
    text = json.dumps(encode(container), sort_keys=True)
    for ours, theirs in SAME.items():
        text = text.replace(ours, theirs)
    return hashlib.sha256(text.encode()).hexdigest()


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
