# SPDX-License-Identifier: Apache-2.0
"""The file of detections, read by pycocotools."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO

from vitdet_d2.evaluation.detection_file import DetectionFile


def detections(masks: bool = True) -> Instances:
    """Two objects on a picture of 6 x 8 pixels (height x width)."""
    bits = torch.zeros(2, 6, 8, dtype=torch.bool)
    bits[0, 1:4, 2:7] = True
    bits[1, 0, 0] = True
    fields: dict[str, Any] = {
        "pred_boxes": Boxes(torch.tensor([[2.0, 1.0, 7.0, 4.0], [0.0, 0.0, 1.5, 1.0]])),
        "scores": torch.tensor([0.75, 0.5]),
        "pred_classes": torch.tensor([1, 0]),
    }
    return Instances((6, 8), **fields, **({"pred_masks": bits} if masks else {}))


def write(masks: bool = True) -> bytes:
    buffer = io.BytesIO()
    file = DetectionFile(buffer, ["cat", "dog"], [17, 18], {"weights": "w.pth"})
    file.add("none.jpg", detections(masks)[:0])
    file.add("a/b.jpg", detections(masks), notes=["turned"], picture="a/b.jpg")
    file.add_failed("bad.jpg", "empty")
    file.add("c.jpg", detections(masks))
    assert (file.num_images, file.num_detections, len(file.failed)) == (3, 4, 1)
    file.finish()
    return buffer.getvalue()


def test_content() -> None:
    content = json.loads(write())
    assert content["info"] == {"weights": "w.pth"}
    assert content["categories"] == [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
    size = {"width": 8, "height": 6}
    assert content["images"] == [
        {"id": 1, "file_name": "none.jpg", **size},
        {"id": 2, "file_name": "a/b.jpg", **size, "picture": "a/b.jpg", "notes": ["turned"]},
        {"id": 3, "file_name": "c.jpg", **size},
    ]
    assert content["failed"] == [{"file_name": "bad.jpg", "reason": "empty"}]
    keys = ("id", "image_id", "category_id", "bbox", "score", "area", "iscrowd")
    assert [[row[key] for key in keys] for row in content["annotations"]] == [
        [1, 2, 18, [2.0, 1.0, 5.0, 3.0], 0.75, 15.0, 0],
        [2, 2, 17, [0.0, 0.0, 1.5, 1.0], 0.5, 1.0, 0],
        [3, 3, 18, [2.0, 1.0, 5.0, 3.0], 0.75, 15.0, 0],
        [4, 3, 17, [0.0, 0.0, 1.5, 1.0], 0.5, 1.0, 0],
    ]


def test_pycocotools_opens_it_as_data_set_and_as_results(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    path.write_bytes(write())
    coco = COCO(str(path))
    assert coco.getCatIds(["dog"]) == [18]
    expected = np.zeros((6, 8), dtype=np.uint8)
    expected[1:4, 2:7] = 1
    np.testing.assert_array_equal(coco.annToMask(coco.loadAnns([1])[0]), expected)
    results = coco.loadRes(json.loads(path.read_text())["annotations"])
    assert len(results.anns) == 4
    np.testing.assert_array_equal(results.annToMask(results.loadAnns([3])[0]), expected)


def test_without_masks_the_area_is_that_of_the_box() -> None:
    rows = json.loads(write(masks=False))["annotations"]
    assert [row["area"] for row in rows] == [15.0, 1.5, 15.0, 1.5]
    assert not any("segmentation" in row for row in rows)


def test_nothing_at_all_is_valid_json_too() -> None:
    buffer = io.BytesIO()
    DetectionFile(buffer, [], [], {}).finish()
    assert json.loads(buffer.getvalue())["annotations"] == []


def test_what_is_not_finite_is_not_written() -> None:
    buffer = io.BytesIO()
    file = DetectionFile(buffer, ["cat", "dog"], [1, 2], {})
    instances = detections()
    instances.scores[1] = float("nan")
    before = buffer.getvalue()
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        file.add("a.jpg", instances)
    assert buffer.getvalue() == before


def test_classes_and_ids_must_pair_up() -> None:
    with pytest.raises(ValueError, match=r"zip\(\)"):
        DetectionFile(io.BytesIO(), ["cat"], [1, 2], {})
