# SPDX-License-Identifier: Apache-2.0
"""Reading images (good and bad ones), and annotations before and after transforms."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from tests.runtime.bundled.data.images import box_annotation, pixels, save_image

# pycocotools 2.0.11 decodes with an `__array__` that numpy 2 finds outdated.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PIXELS = pixels(4, 6)


def test_formats(tmp_path):
    path = str(save_image(tmp_path / "a.png", 4, 6))
    np.testing.assert_array_equal(utils.read_image(path), PIXELS)
    np.testing.assert_array_equal(utils.read_image(path, "RGB"), PIXELS)
    np.testing.assert_array_equal(utils.read_image(path, "BGR"), PIXELS[:, :, ::-1])
    grey = utils.read_image(path, "L")
    assert grey.shape == (4, 6, 1)
    np.testing.assert_allclose(grey[:, :, 0], PIXELS @ [0.299, 0.587, 0.114], atol=1)


@pytest.mark.parametrize("format", ["RGB", "BGR", "YUV-BT.601"])
def test_back_to_rgb(tmp_path, format):
    image = utils.read_image(str(save_image(tmp_path / "a.png", 4, 6)), format)
    rgb = utils.convert_image_to_rgb(torch.from_numpy(image.copy()), format)
    np.testing.assert_allclose(rgb, PIXELS, atol=0.01)  # rounded coefficients of YUV


def test_grey_and_cmyk_to_rgb():
    grey = PIXELS[:, :, :1]
    np.testing.assert_array_equal(utils.convert_image_to_rgb(grey, "L"), grey.repeat(3, axis=2))
    cmyk = np.asarray(Image.fromarray(PIXELS).convert("CMYK"))
    np.testing.assert_array_equal(utils.convert_image_to_rgb(cmyk, "CMYK"), PIXELS)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path, orientation):
    # From the EXIF standard: where row 0 and column 0 of the file belong on the upright picture.
    upright = {
        1: PIXELS,
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        4: PIXELS[::-1],
        5: PIXELS.transpose(1, 0, 2),
        6: np.rot90(PIXELS, -1),
        7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(PIXELS, 1),
    }
    path = save_image(tmp_path / "a.png", 4, 6, orientation=orientation)
    np.testing.assert_array_equal(utils.read_image(str(path), "RGB"), upright[orientation])


def _truncated(path):
    save_image(path, 60, 80)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("gone.jpg", lambda path: None, r"No such file"),
        ("empty.jpg", lambda path: path.write_bytes(b""), r"not an image file"),
        ("page.jpg", lambda path: path.write_text("<html>"), r"not an image file"),
        ("half.jpg", _truncated, r"[Tt]runcated"),
        ("half.png", _truncated, r"."),
        (
            "deep.png",
            lambda path: Image.fromarray(np.full((4, 4), 4000, dtype=np.uint16)).save(path),
            r"more than 8 bits per channel",
        ),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, make, reason):
    path = tmp_path / name
    make(path)
    with pytest.raises(utils.ImageReadError, match=rf"cannot read image .*{name}: .*{reason}"):
        utils.read_image(str(path), "RGB")


def test_first_frame_of_an_animation(tmp_path, caplog):
    frames = [Image.fromarray(pixels(4, 6)), Image.fromarray(255 - pixels(4, 6))]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    image = utils.read_image(str(tmp_path / "a.png"), "RGB")
    np.testing.assert_array_equal(image, PIXELS)
    assert "is animated" in caplog.text


def test_size_is_checked_and_filled_in():
    record = {}
    utils.check_image_size(record, PIXELS)
    assert record == {"width": 6, "height": 4}
    utils.check_image_size(record, PIXELS)
    message = r"a.jpg is 6 x 4 pixels \(width x height\), its annotation says 5 x 4; correct"
    with pytest.raises(utils.SizeMismatchError, match=message):
        utils.check_image_size({"file_name": "a.jpg", "width": 5, "height": 4}, PIXELS)


@pytest.mark.parametrize(
    ("orientation", "explained"), [(6, True), (8, True), (3, False), (None, False)]
)
def test_size_swapped_by_exif_is_explained(tmp_path, orientation, explained):
    path = str(save_image(tmp_path / "a.jpg", 4, 6, orientation=orientation))
    image = utils.read_image(path, "RGB")
    height, width = image.shape[:2]
    record = {"file_name": path, "width": height, "height": width}
    with pytest.raises(utils.SizeMismatchError, match=r"a.jpg") as caught:
        utils.check_image_size(record, image)
    assert ("EXIF orientation" in str(caught.value)) == explained


def test_box_and_polygon_follow_the_image():
    annotation = box_annotation(1, 1, 4, 2)
    transforms = [T.HFlipTransform(6), T.ResizeTransform(4, 6, 8, 12)]
    result = utils.transform_instance_annotations(annotation, transforms, (8, 12))
    assert result is annotation
    np.testing.assert_array_equal(result["bbox"], [2, 2, 10, 6])
    assert result["bbox_mode"] == BoxMode.XYXY_ABS
    np.testing.assert_array_equal(result["segmentation"], [[10, 2, 2, 2, 2, 6, 10, 6]])


def test_box_is_clipped_and_whole_numbers_are_not_cut():
    annotation = {
        "bbox": [1, 1, 9, 1],
        "bbox_mode": BoxMode.XYWH_ABS,
        "segmentation": [[1, 1, 4, 1, 4, 3]],
    }
    transform = T.ResizeTransform(4, 6, 6, 9)
    result = utils.transform_instance_annotations(annotation, [transform], (6, 9))
    # Detectron2 02b5c4e cuts 1.5 to 1 here, because the numbers are integers.
    np.testing.assert_array_equal(result["bbox"], [1.5, 1.5, 9, 3])
    np.testing.assert_array_equal(result["segmentation"], [[1.5, 1.5, 6, 1.5, 6, 4.5]])


def test_run_length_mask_ignores_padding():
    mask = np.zeros((4, 6), dtype=np.uint8)
    mask[1:3, 2:5] = 1
    annotation = box_annotation(2, 1, 3, 2)
    annotation["segmentation"] = mask_util.encode(np.asfortranarray(mask))
    pad = T.PadTransform(0, 0, 2, 1, 6, 4, 128.0, 255)
    result = utils.transform_instance_annotations(annotation, [pad], (5, 8))
    np.testing.assert_array_equal(result["segmentation"], np.pad(mask, ((0, 1), (0, 2))))


def test_annotations_that_are_refused():
    with pytest.raises(ValueError, match=r"keypoints are not part"):
        utils.transform_instance_annotations(
            box_annotation(0, 0, 1, 1) | {"keypoints": [1, 1, 2]}, [], (4, 6)
        )
    with pytest.raises(ValueError, match=r"must be polygons \(list\).*got str"):
        utils.transform_instance_annotations(
            box_annotation(0, 0, 1, 1) | {"segmentation": "x"}, [], (4, 6)
        )


def test_instances_in_both_mask_formats():
    annotations = [box_annotation(1, 1, 3, 2, 5), box_annotation(0, 0, 2, 2, 7)]
    polygons = utils.annotations_to_instances(annotations, (4, 6))
    bits = utils.annotations_to_instances(annotations, (4, 6), mask_format="bitmask")
    for instances in (polygons, bits):
        assert instances.image_size == (4, 6)
        assert instances.gt_classes.tolist() == [5, 7]
        assert instances.gt_boxes.tensor.tolist() == [[1, 1, 4, 3], [0, 0, 2, 2]]
    assert len(polygons.gt_masks) == 2
    assert bits.gt_masks.tensor.sum(dim=(1, 2)).tolist() == [6, 4]
    assert bits.gt_masks.tensor[0, 1:3, 1:4].all()


def test_bitmask_takes_every_kind_of_segmentation():
    mask = np.zeros((4, 6), dtype=np.uint8)
    mask[1:3, 1:4] = 1
    kinds = [mask, mask_util.encode(np.asfortranarray(mask)), [[1.0, 1, 4, 1, 4, 3, 1, 3]]]
    annotations = [box_annotation(1, 1, 3, 2) | {"segmentation": kind} for kind in kinds]
    masks = utils.annotations_to_instances(annotations, (4, 6), "bitmask").gt_masks.tensor
    assert (masks.numpy() == mask.astype(bool)).all()
    with pytest.raises(ValueError, match=r"set instance_mask_format='bitmask'"):
        utils.annotations_to_instances(annotations, (4, 6), "polygon")
    with pytest.raises(ValueError, match=r"2D mask, got ndarray of shape \(1, 4, 6\)"):
        utils.annotations_to_instances(
            [annotations[0] | {"segmentation": mask[None]}], (4, 6), "bitmask"
        )


def test_instances_of_nothing_and_of_half_annotated_images():
    empty = utils.annotations_to_instances([], (4, 6))
    assert len(empty) == 0
    assert empty.gt_boxes.tensor.shape == (0, 4)
    without = box_annotation(0, 0, 2, 2)
    del without["segmentation"]
    assert not utils.annotations_to_instances([without], (4, 6)).has("gt_masks")
    with pytest.raises(ValueError, match=r"1 of 2 annotations of an image have no segmentation"):
        utils.annotations_to_instances([box_annotation(0, 0, 1, 1), without], (4, 6))
    with pytest.raises(ValueError, match=r"mask_format must be"):
        utils.annotations_to_instances([], (4, 6), "rle")


def test_empty_instances_are_left_out():
    annotations = [
        box_annotation(0, 0, 2, 2, 0),
        box_annotation(1, 1, 0, 2, 1),
        box_annotation(0, 0, 1, 1, 2),
    ]
    annotations[2]["segmentation"] = []
    instances = utils.annotations_to_instances(annotations, (4, 6))
    assert utils.filter_empty_instances(instances).gt_classes.tolist() == [0]
    boxes, kept = utils.filter_empty_instances(instances, by_mask=False, return_mask=True)
    assert boxes.gt_classes.tolist() == [0, 2]
    assert kept.tolist() == [True, False, True]
    assert utils.filter_empty_instances(instances, by_box=False).gt_classes.tolist() == [0, 1]
    assert len(utils.filter_empty_instances(instances, box_threshold=3.0)) == 0
    with pytest.raises(ValueError, match=r"needs by_box or by_mask"):
        utils.filter_empty_instances(instances, by_box=False, by_mask=False)


def test_metadata_must_agree():
    for name, classes in (("test_meta_a", ["x"]), ("test_meta_b", ["x"]), ("test_meta_c", ["y"])):
        MetadataCatalog.get(name).thing_classes = classes
    try:
        utils.check_metadata_consistency("thing_classes", ["test_meta_a", "test_meta_b"])
        with pytest.raises(ValueError, match=r"'test_meta_a' and 'test_meta_c' differ"):
            utils.check_metadata_consistency("thing_classes", ["test_meta_a", "test_meta_c"])
    finally:
        for name in ("test_meta_a", "test_meta_b", "test_meta_c"):
            MetadataCatalog.remove(name)


def test_crop_around_an_object_holds_its_centre():
    object_ = {"bbox": [60, 10, 20, 40], "bbox_mode": BoxMode.XYWH_ABS}  # centre (70, 30)
    seen = set()
    for _ in range(200):
        crop = utils.gen_crop_transform_with_instance((20, 30), (50, 90), object_)
        assert (crop.w, crop.h) == (30, 20)
        assert 0 <= crop.x0 <= 70 <= crop.x0 + crop.w <= 90 + 10
        assert crop.x0 + crop.w <= 90
        assert 0 <= crop.y0 <= 30 <= crop.y0 + crop.h <= 50
        seen.add((crop.x0, crop.y0))
    assert len(seen) > 50


@pytest.mark.parametrize(
    ("window", "image", "match"),
    [((10, 10), (25, 90), "is outside of"), ((60, 10), (50, 90), "does not fit an image of")],
)
def test_crop_around_an_object_refuses_what_cannot_be(window, image, match):
    object_ = {"bbox": [60, 10, 80, 50], "bbox_mode": BoxMode.XYXY_ABS}
    with pytest.raises(AssertionError, match=match):
        utils.gen_crop_transform_with_instance(window, image, object_)
