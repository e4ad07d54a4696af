# SPDX-License-Identifier: Apache-2.0
"""The mapper against numbers measured on Detectron2, and on images without objects."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from PIL import Image

from tests.runtime.bundled.data.images import box_annotation, save_image

# pycocotools 2.0.11 decodes with an `__array__` that numpy 2 finds outdated.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LSJ = [
    T.RandomFlip(horizontal=True),
    T.ResizeScale(0.1, 2.0, 48, 48),
    T.FixedSizeCrop((48, 48), pad=False),
]
MIXED = [
    T.ResizeShortestEdge((20, 30), 40),
    T.RandomApply(T.RandomCrop("relative_range", (0.5, 0.5)), 0.6),
    T.RandomFlip(horizontal=False, vertical=True),
    T.RandomBrightness(0.5, 1.5),
]


@pytest.fixture
def record(tmp_path):
    triangle = box_annotation(0, 0, 20, 20, 1)
    triangle["segmentation"] = [[0.0, 0, 20, 2, 8, 20]]
    return {
        "file_name": str(save_image(tmp_path / "a.png", 37, 53)),
        "height": 37,
        "width": 53,
        "image_id": 1,
        "annotations": [
            box_annotation(10.5, 8.25, 30, 20, 2),
            triangle,
            box_annotation(1, 1, 5, 5, 0, iscrowd=1),
            box_annotation(50, 33, 3, 4, 0),
        ],
    }


# Measured on Detectron2 02b5c4e with np.random.seed(n), this record and Pillow 13.0:
# seed, (height, width), mean of all pixels, classes, boxes
LSJ_GOLDENS = [
    (0, (48, 48), 109.4653, [2, 1],
     [[0.8679, 9.9257, 40.4906, 36.4122], [0.0, 0.3035, 13.4151, 21.8257]]),
    (1, (48, 48), 120.6111, [2, 1, 0],
     [[16.5094, 10.9257, 48.0, 37.4122], [43.5849, 2.2059, 48.0, 9.2892],
      [0.0, 43.7027, 3.9623, 48.0]]),
    (2, (5, 7), 105.4, [2, 1, 0],
     [[1.6509, 1.1149, 5.6132, 3.8176], [4.3585, 0.0, 7.0, 2.7027], [0.0, 4.4595, 0.3962, 5.0]]),
    (3, (48, 48), 98.5694, [2, 1],
     [[7.6698, 10.7027, 46.7264, 36.6486], [0.0, 0.5979, 20.0377, 25.9459]]),
    (4, (38, 48), 111.9985, [2, 1, 0],
     [[3.8962, 8.473, 35.0283, 29.0135], [0.0, 0.6928, 13.7547, 20.5405],
      [44.8868, 33.8919, 48.0, 38.0]]),
    (5, (48, 48), 112.375, [2, 1],
     [[12.8113, 11.1554, 48.0, 43.0473], [45.3019, 0.9177, 48.0, 5.2611]]),
]  # fmt: skip
MIXED_GOLDENS = [
    (0, (25, 36), 133.543, [2, 1, 0],
     [[7.1321, 5.5743, 27.5094, 19.0878], [0.0, 0.0, 13.5849, 13.5135],
      [33.9623, 22.2973, 36.0, 25.0]]),
    (1, (25, 36), 65.6811, [2, 1, 0],
     [[7.1321, 5.5743, 27.5094, 19.0878], [0.0, 0.0, 13.5849, 13.5135],
      [33.9623, 22.2973, 36.0, 25.0]]),
    (2, (27, 39), 68.9228, [2, 1, 0],
     [[7.9245, 6.6216, 30.566, 21.7568], [0.0, 12.8649, 15.0943, 27.0],
      [37.7358, 0.0, 39.0, 3.027]]),
    (3, (26, 22), 57.877, [2, 1], [[0.0, 5.6216, 20.566, 20.7568], [0.0, 11.8649, 5.0943, 26.0]]),
]  # fmt: skip


def _check(sample, size, mean, classes, boxes):
    assert sample["image"].shape == (3, *size)
    assert sample["image"].dtype == torch.uint8
    # Pillow's rounding may change by a grey value from one version to another
    assert sample["image"].double().mean().item() == pytest.approx(mean, abs=0.5)
    instances = sample["instances"]
    assert instances.image_size == size
    assert instances.gt_classes.tolist() == classes
    # the goldens have four decimals
    np.testing.assert_allclose(instances.gt_boxes.tensor, boxes, atol=6e-5)


@pytest.mark.parametrize("golden", LSJ_GOLDENS, ids=lambda g: str(g[0]))
def test_large_scale_jitter_matches_detectron2(record, golden):
    mapper = DatasetMapper(
        True, augmentations=LSJ, image_format="RGB", use_instance_mask=True, recompute_boxes=True
    )
    before = copy.deepcopy(record)
    np.random.seed(golden[0])
    sample = mapper(record)
    _check(sample, *golden[1:])
    assert record == before
    assert (sample["height"], sample["width"]) == (37, 53)
    assert "annotations" not in sample
    assert len(sample["instances"].gt_masks) == len(golden[3])


@pytest.mark.parametrize("golden", MIXED_GOLDENS, ids=lambda g: str(g[0]))
def test_other_augmentations_match_detectron2(record, golden):
    mapper = DatasetMapper(True, augmentations=MIXED, image_format="BGR")
    np.random.seed(golden[0])
    sample = mapper(record)
    _check(sample, *golden[1:])
    assert not sample["instances"].has("gt_masks")


def test_bitmasks_equal_rasterised_polygons(record):
    samples = []
    for mask_format in ("polygon", "bitmask"):
        mapper = DatasetMapper(
            True,
            augmentations=LSJ,
            image_format="RGB",
            use_instance_mask=True,
            instance_mask_format=mask_format,
        )
        np.random.seed(4)
        samples.append(mapper(record)["instances"])
    polygons, bits = samples
    assert len(polygons) == len(bits) == 3
    torch.testing.assert_close(polygons.gt_boxes.tensor, bits.gt_boxes.tensor)
    area = bits.gt_masks.tensor.sum(dim=(1, 2)).float()
    # pixels against exact area: up to a pixel along the outline
    np.testing.assert_allclose(area, polygons.gt_masks.area(), atol=30)
    assert (area > 10).all()


def test_test_mapper_drops_annotations(record):
    mapper = DatasetMapper(False, augmentations=[T.ResizeShortestEdge(64, 64)], image_format="RGB")
    sample = mapper(record)
    assert sorted(sample) == ["file_name", "height", "image", "image_id", "width"]
    assert sample["image"].shape == (3, 45, 64)


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
@pytest.mark.parametrize("crowd_only", [True, False])
def test_image_without_objects(record, mask_format, crowd_only):
    record["annotations"] = record["annotations"][2:3] if crowd_only else []
    mapper = DatasetMapper(
        True,
        augmentations=LSJ,
        image_format="RGB",
        use_instance_mask=True,
        recompute_boxes=True,
        instance_mask_format=mask_format,
    )
    instances = mapper(record)["instances"]
    assert len(instances) == len(instances.gt_masks) == len(instances.gt_boxes) == 0


def test_grey_images(record):
    mapper = DatasetMapper(True, augmentations=[], image_format="L")
    image = mapper(record)["image"]
    assert image.shape == (1, 37, 53)
    image += 1  # writable: memory of its own


def test_size_mismatch_names_the_image(record):
    mapper = DatasetMapper(True, augmentations=[], image_format="RGB")
    with pytest.raises(ValueError, match=r"a.png is 53 x 37 pixels"):
        mapper(record | {"width": 50})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"use_keypoint": True}, r"keypoints and precomputed proposals"),
        ({"precomputed_proposal_topk": 10}, r"keypoints and precomputed proposals"),
        ({"recompute_boxes": True}, r"needs use_instance_mask=True"),
        ({"instance_mask_format": "rle"}, r"instance_mask_format must be"),
    ],
)
def test_arguments_that_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DatasetMapper(True, augmentations=[], image_format="RGB", **arguments)


def test_mappers_of_others_override_what_becomes_of_annotations(record):
    class Counting(DatasetMapper):
        def _transform_annotations(self, dataset_dict, transforms, image_shape):
            count = len(dataset_dict["annotations"])
            super()._transform_annotations(dataset_dict, transforms, image_shape)
            dataset_dict["counted"] = (count, len(dataset_dict["instances"]), image_shape)

    sample = Counting(True, augmentations=[T.Resize((20, 30))], image_format="RGB")(record)
    given = len(record["annotations"])
    crowds = sum(annotation.get("iscrowd", 0) for annotation in record["annotations"])
    assert given > 0
    assert sample["counted"] == (given, given - crowds, (20, 30))
    assert "annotations" not in sample


@pytest.mark.parametrize("is_train", [True, False])
def test_semantic_classes_go_with_the_image(record, tmp_path, is_train):
    classes = np.arange(37 * 53, dtype=np.uint8).reshape(37, 53)
    Image.fromarray(classes).save(tmp_path / "classes.png")
    record["sem_seg_file_name"] = str(tmp_path / "classes.png")
    flip = T.RandomFlip(prob=1.0, horizontal=True)
    sample = DatasetMapper(is_train, augmentations=[flip], image_format="RGB")(record)
    assert sample["sem_seg"].dtype == torch.int64
    assert sample["sem_seg"].tolist() == classes[:, ::-1].tolist()
    assert "sem_seg_file_name" not in sample
    assert "sem_seg_file_name" in record
