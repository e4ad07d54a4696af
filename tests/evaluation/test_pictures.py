# SPDX-License-Identifier: Apache-2.0
"""Pictures: which images, at which size, with what on which side."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from torch import nn

from vitdet_d2.evaluation import write_pictures

SIDE = 64
METADATA = SimpleNamespace(get=lambda key, default=None: ["one", "two"] if "cl" in key else default)

pytestmark = pytest.mark.filterwarnings(
    # pycocotools 2.0.11 is not yet written for the copy keyword of numpy 2.
    "ignore:__array__ implementation:DeprecationWarning"
)


class _Detector(nn.Module):
    """Finds one sure object in the lower right quarter, and one unsure one."""

    def __init__(self, input_format: str = "RGB", found: int = 2) -> None:
        super().__init__()
        self.input_format = input_format
        self.found = found
        self.given: list[dict] = []

    def forward(self, batch):
        assert not self.training, "pictures are made in eval mode"
        self.given += batch
        height, width = batch[0]["height"], batch[0]["width"]
        mask = torch.zeros(2, height, width, dtype=torch.bool)
        mask[0, height // 2 :, width // 2 :] = True
        instances = Instances(
            (height, width),
            pred_boxes=Boxes(torch.tensor([[width / 2, height / 2, width, height], [0, 0, 9, 9]])),
            scores=torch.tensor([0.75, 0.25]),
            pred_classes=torch.tensor([1, 0]),
            pred_masks=mask,
        )
        return [{"instances": instances[: self.found]}]


@pytest.fixture
def records(tmp_path) -> list[dict]:
    result = []
    for number in range(5):
        path = tmp_path / f"image {number}.png"
        pixels = np.full((SIDE, SIDE, 3), 100, dtype=np.uint8)
        pixels[0, 0] = [250, number, 10]
        Image.fromarray(pixels).save(path)
        box = [4, 4, 24, 24]
        annotation = {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0}
        annotation["segmentation"] = [[4, 4, 24, 4, 24, 24, 4, 24]]
        result.append(
            {
                "file_name": str(path),
                "height": SIDE,
                "width": SIDE,
                "image_id": number,
                "annotations": [annotation] if number != 2 else [],
            }
        )
    return result


def _load(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def _colorful(panel: np.ndarray) -> np.ndarray:
    """Where a panel has colour, away from the title and the marked corner pixel."""
    return np.ptp(panel.astype(int), axis=2) > 30


def test_truth_is_left_and_predictions_right(records, tmp_path):
    model = _Detector()
    paths = write_pictures(model, records[:1], METADATA, tmp_path / "out", 1, 0.5)
    assert [path.name for path in paths] == ["000_image_0.png", "overview.png"]
    picture = _load(paths[0])
    height, width = picture.shape[:2]
    assert height >= 480
    assert width >= 960
    scale = 480 / SIDE
    left, right = picture[-488:-8, 8:488], picture[-488:-8, 496:976]
    inside, outside = int(14 * scale), int(48 * scale)
    assert _colorful(left)[inside, inside]
    assert not _colorful(left)[outside, outside]
    assert _colorful(right)[outside, outside]
    assert not _colorful(right)[inside, inside], "below the threshold"
    assert (picture[:24, 8:200] < 128).any(), "a title"


def test_images_are_spread_evenly_and_model_mode_is_restored(records, tmp_path):
    model = _Detector().train()
    paths = write_pictures(model, records, METADATA, tmp_path / "out", 3, 0.5)
    assert [path.name for path in paths] == [
        "000_image_0.png",
        "001_image_2.png",
        "002_image_4.png",
        "overview.png",
    ]
    assert model.training
    assert all(path.is_file() for path in paths)
    assert _load(paths[-1]).shape[1] > 4 * 360, "two pairs beside each other"
    assert len(write_pictures(model, records, METADATA, tmp_path / "all", 99, 0.5)) == 6


@pytest.mark.parametrize(("input_format", "first"), [("RGB", 250), ("BGR", 10)])
def test_channels_are_in_the_order_of_the_model(records, tmp_path, input_format, first):
    model = _Detector(input_format)
    write_pictures(model, records[:1], METADATA, tmp_path / "out", 1, 0.5)
    assert model.given[0]["image"].shape == (3, SIDE, SIDE)
    assert model.given[0]["image"][0, 0, 0] == first


def test_a_mapper_makes_the_input_and_detections_keep_the_size_of_the_image(records, tmp_path):
    def mapper(record):
        return {"image": torch.zeros(3, 2 * SIDE, 2 * SIDE), "image_id": record["image_id"]}

    model = _Detector()
    write_pictures(model, records[:1], METADATA, tmp_path / "out", 1, 0.5, mapper=mapper)
    (given,) = model.given
    assert given["image"].shape == (3, 2 * SIDE, 2 * SIDE)
    assert (given["height"], given["width"], given["image_id"]) == (SIDE, SIDE, 0)


def test_nothing_found_and_nothing_there(records, tmp_path):
    paths = write_pictures(_Detector(found=0), records[2:3], METADATA, tmp_path / "out", 1, 0.5)
    assert not _colorful(_load(paths[0])[100:]).any()


def test_large_and_narrow_images_stay_viewable(tmp_path):
    records = []
    for number, (width, height) in enumerate([(3000, 1000), (900, 30)]):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (width, height), (100, 100, 100)).save(path)
        records.append({"file_name": str(path), "height": height, "width": width})
    paths = write_pictures(_Detector(), records, METADATA, tmp_path / "out", 2, 0.5)
    for path in paths[:-1]:
        assert _load(path).shape[1] <= 2 * 1600 + 3 * 8


@pytest.mark.parametrize(
    ("count", "threshold", "number", "message"),
    [
        (1, 0.5, 0, "at least one image, got count 1 of 0 images"),
        (0, 0.5, 1, "at least one image, got count 0 of 1 images"),
        (1, 1.5, 1, r"score_threshold: expected \[0, 1\], got 1.5"),
    ],
)
def test_arguments_are_checked(records, tmp_path, count, threshold, number, message):
    with pytest.raises(ValueError, match=message):
        write_pictures(_Detector(), records[:number], METADATA, tmp_path, count, threshold)
