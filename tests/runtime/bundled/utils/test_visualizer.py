# SPDX-License-Identifier: Apache-2.0
"""Drawing: where colour lands, at which size, and that pictures never fail on odd input."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from detectron2.utils.colormap import colormap, random_color, random_colors
from detectron2.utils.visualizer import (
    ColorMode,
    GenericMask,
    VisImage,
    Visualizer,
    _create_text_labels,
)
from PIL import Image

H, W = 60, 80
GRAY = np.full((H, W, 3), 100, dtype=np.uint8)
RED, GREEN = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)

pytestmark = pytest.mark.filterwarnings(
    # pycocotools 2.0.11 is not yet written for the copy keyword of numpy 2.
    "ignore:__array__ implementation:DeprecationWarning"
)


def _square(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((H, W), dtype=np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


def _changed(image: np.ndarray) -> np.ndarray:
    return (image != 100).any(axis=2)


def test_a_box_is_an_outline_of_its_colour():
    image = Visualizer(GRAY).draw_box([10, 20, 50, 40], alpha=1.0, edge_color="red").get_image()
    outline = _square(10, 20, 50, 40) - _square(11, 21, 49, 39)
    assert (_changed(image) == (outline == 1)).all()
    assert (image[20, 30] == [255, 0, 0]).all()


@pytest.mark.parametrize(
    "box", [[-50, -9, 900, 7], [75, 55, 1e7, 1e7], [5, 5, 5, 9], [90, 1, 99, 9]]
)
def test_boxes_beyond_the_image_are_cut_off(box):
    image = Visualizer(GRAY).draw_box(box).get_image()
    assert image.shape == (H, W, 3)


def test_a_box_beyond_the_image_shows_only_the_sides_inside():
    image = Visualizer(GRAY).draw_box([-30, 10, 20, 900], alpha=1.0, edge_color=GREEN).get_image()
    changed = _changed(image)
    assert changed[10, :20].all()
    assert changed[10:, 19].all()
    assert not changed[11:, :19].any(), "its left and lower sides are outside"


@pytest.mark.parametrize("form", ["bitmap", "rle", "uncompressed", "polygon"])
def test_a_mask_covers_its_pixels_in_every_form(form):
    bitmap = _square(10, 20, 50, 40)
    masks = {
        "bitmap": bitmap,
        "rle": mask_util.encode(np.asfortranarray(bitmap)),
        "uncompressed": {
            "size": [H, W],
            "counts": [10 * H + 20, *[20, 40] * 39, 20, 20 + 30 * H],
        },
        "polygon": [[10, 20, 50, 20, 50, 40, 10, 40]],
    }
    visualizer = Visualizer(GRAY)
    image = visualizer.overlay_instances(
        masks=[masks[form]], assigned_colors=[RED], alpha=0.5
    ).get_image()
    changed = _changed(image)
    inside = _square(11, 21, 49, 39) == 1
    assert changed[inside].all()
    assert (image[30, 30] == [178, 50, 50]).all(), "half of 100 and half of red"
    # A polygon's edge may spill over by a fraction of a pixel.
    assert not changed[_square(9, 19, 51, 41) == 0].any()
    assert image[20, 30, 0] > image[30, 30, 0], "the outline is firmer than the inside"


def test_a_hole_in_a_mask_stays_free():
    mask = _square(10, 10, 50, 50) - _square(20, 20, 40, 40)
    image = Visualizer(GRAY).draw_binary_mask(mask, color=RED).get_image()
    assert not _changed(image)[22:38, 22:38].any()
    assert _changed(image)[11:19, 11:49].all()


def test_an_enlarged_mask_lies_over_its_object():
    visualizer = Visualizer(GRAY, scale=3.0)
    image = visualizer.overlay_instances(
        masks=_square(10, 20, 50, 40)[None], assigned_colors=[RED]
    ).get_image()
    assert image.shape == (3 * H, 3 * W, 3)
    ys, xs = np.nonzero(_changed(image))
    # Bicubic enlargement rounds the corners off, and moves an edge by less than a source pixel.
    assert (
        abs(np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / 3 - [10, 20, 50, 40]).max()
        <= 1.0
    )


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.5])
def test_labels_stay_on_the_canvas_and_off_each_other(scale):
    big = np.full((300, 400, 3), 100, dtype=np.uint8)
    visualizer = Visualizer(big, scale=scale)
    boxes = np.array(
        [[0, 0, 60, 30], [300, 260, 399, 299], [100, 100, 200, 200], [102, 100, 190, 180]]
    )
    visualizer.overlay_instances(boxes=boxes, labels=["first", "a long label 97%", "cat", "dog"])
    width, height = visualizer.get_output().canvas.size
    places = visualizer._label_boxes
    assert len(places) == 4
    for number, (x0, y0, x1, y1) in enumerate(places):
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        for other in places[:number]:
            apart = x1 <= other[0] or other[2] <= x0 or y1 <= other[1] or other[3] <= y0
            assert apart, "two labels overlap although there is room"


def test_text_stands_out_from_its_box():
    image = (
        Visualizer(np.full((100, 200, 3), 100, dtype=np.uint8))
        .draw_text("Text", (100, 20), color="blue")
        .get_image()
    )
    luma = image @ np.array([0.299, 0.587, 0.114])
    ys, xs = np.nonzero(_changed(image))
    assert abs((xs.min() + xs.max()) / 2 - 100) < 2, "centred on x"
    assert ys.min() == 20, "hangs below y"
    assert luma.min() < 30, "the box is dark"
    assert image[:, :, 2].max() > 200, "the letters are light"


def test_smaller_instances_lie_on_top():
    big, small = _square(0, 0, 60, 60), _square(20, 20, 30, 30)
    for masks, colors in (([big, small], [RED, GREEN]), ([small, big], [GREEN, RED])):
        image = (
            Visualizer(GRAY)
            .overlay_instances(masks=masks, assigned_colors=colors, alpha=1.0)
            .get_image()
        )
        assert (image[25, 25] == [0, 255, 0]).all()


def _predictions() -> Instances:
    return Instances(
        (H, W),
        pred_boxes=Boxes(torch.tensor([[10.0, 20, 50, 40], [0, 0, 9, 9]])),
        scores=torch.tensor([0.976, 0.5]),
        pred_classes=torch.tensor([1, 0]),
        pred_masks=torch.from_numpy(np.stack([_square(10, 20, 50, 40), _square(0, 0, 9, 9)])) > 0,
    )


def test_predictions_in_gray_outside_of_the_masks():
    image = np.zeros((H, W, 3), dtype=np.uint8)
    image[..., 0] = 90
    drawn = Visualizer(image, instance_mode=ColorMode.IMAGE_BW).draw_instance_predictions(
        _predictions()
    )
    assert (drawn.get_image()[55, 70] == 30).all()
    assert len(set(drawn.get_image()[30, 30].tolist())) > 1


def test_class_colours_of_the_metadata_are_used():
    metadata = Metadata(name="m", thing_classes=["a", "b"], thing_colors=[(0, 0, 255), (255, 0, 0)])
    drawn = Visualizer(GRAY, metadata, instance_mode=ColorMode.SEGMENTATION)
    image = drawn.draw_instance_predictions(_predictions(), jittering=False).get_image()
    assert (image[36, 46] == [224, 20, 20]).all(), "four fifths of class b's red"


def test_drawing_leaves_the_global_generators_alone():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    metadata = Metadata(name="m", thing_colors=[(0, 0, 255), (255, 0, 0)])
    Visualizer(GRAY, metadata, instance_mode=ColorMode.SEGMENTATION).draw_instance_predictions(
        _predictions()
    )
    random_color()
    assert before[0] == random.getstate()
    assert before[1] == np.random.get_state()[1].tolist()
    assert torch.equal(before[2], torch.get_rng_state())


def test_dataset_dict_with_crowd_and_missing_mask():
    annotations = [
        {
            "bbox": [10, 20, 40, 20],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": 0,
            "segmentation": [[10, 20, 50, 20, 50, 40]],
        },
        {"bbox": [0, 0, 9, 9], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "iscrowd": 1},
    ]
    visualizer = Visualizer(GRAY, Metadata(name="m", thing_classes=["a", "b"]))
    image = visualizer.draw_dataset_dict({"annotations": annotations}).get_image()
    assert _changed(image)[25, 40], "inside the triangle"
    assert not _changed(image)[37, 15], "outside of the triangle, inside its box"
    assert (Visualizer(GRAY).draw_dataset_dict({}).get_image() == GRAY).all()


@pytest.mark.parametrize("kind", ["bit", "polygon"])
def test_mask_structures_are_accepted(kind):
    masks = (
        BitMasks(torch.from_numpy(_square(10, 20, 50, 40)[None]))
        if kind == "bit"
        else PolygonMasks([[[10, 20, 50, 20, 50, 40, 10, 40]]])
    )
    image = (
        Visualizer(GRAY).overlay_instances(masks=masks, boxes=Boxes([[9, 19, 51, 41]])).get_image()
    )
    assert _changed(image)[30, 30]


@pytest.mark.parametrize(
    "mask", [np.zeros((H, W)), [], [[1, 2, 3, 4]], [[500, 500, 510, 500, 510, 510]]]
)
def test_masks_with_nothing_to_see(mask):
    image = Visualizer(GRAY).overlay_instances(masks=[mask], labels=["x"]).get_image()
    assert image.shape == (H, W, 3)
    assert (Visualizer(GRAY).overlay_instances(masks=[mask]).get_image() == GRAY).all()


def test_mismatched_counts_and_sizes_are_refused():
    with pytest.raises(ValueError, match=r"one each per instance, got the lengths \[1, 2\]"):
        Visualizer(GRAY).overlay_instances(boxes=np.zeros((2, 4)), labels=["a"])
    with pytest.raises(ValueError, match="bitmap of 60 x 80, got ndarray"):
        Visualizer(GRAY).overlay_instances(masks=[np.zeros((3, 4))])
    with pytest.raises(ValueError, match="line_style: expected '-'"):
        Visualizer(GRAY).draw_box([1, 1, 9, 9], line_style="--")
    with pytest.raises(ValueError, match="rotation 0 and horizontal_alignment"):
        Visualizer(GRAY).draw_text("a", (1, 1), rotation=30)


def test_generic_mask_area_and_box():
    for source in (_square(3, 4, 13, 10), [[3, 4, 13, 4, 13, 10, 3, 10]]):
        mask = GenericMask(source, H, W)
        assert mask.area() == 60
        assert mask.bbox().tolist() == [3, 4, 13, 10]
    assert GenericMask([], H, W).bbox().tolist() == [0, 0, 0, 0]


def test_canvas_is_saved_and_returned_as_rgb(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    canvas = VisImage(image)
    canvas.save(tmp_path / "x.png")
    assert (np.asarray(Image.open(tmp_path / "x.png")) == image).all()
    assert (canvas.get_image() == image).all()
    assert canvas.get_image().dtype == np.uint8
    assert VisImage(image, scale=2.5).get_image().shape == (150, 200, 3)
    shared = Visualizer(image)
    shared.draw_polygon(np.array([[1, 1], [70, 1], [70, 50]]), color="blue")
    assert (canvas.get_image() == image).all(), "the caller's array is not drawn on"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (([1, 0], [0.976, 0.5], ["cat", "dog"]), ["dog 98%", "cat 50%"]),
        (([1, 0], None, None), ["1", "0"]),
        ((None, [0.25], None), ["25%"]),
        ((None, None, ["cat"]), None),
        (([0], None, ["cat"], [1]), ["cat|crowd"]),
        (([0, 0], [1.0, 0.0], ["cat"], [0, True]), ["cat 100%", "cat 0%|crowd"]),
        (([], torch.zeros(0), ["cat"]), []),
    ],
)
def test_text_labels_match_detectron2(arguments, expected):
    """Measured on Detectron2 02b5c4e with the same arguments."""
    assert _create_text_labels(*arguments) == expected


def test_colours_are_distinct_and_vivid():
    palette = colormap(rgb=True, maximum=1)
    assert palette.dtype == np.float32
    assert (palette >= 0).all()
    assert (palette <= 1).all()
    assert ((palette.max(axis=1) - palette.min(axis=1)) > 0.3).all(), "no gray"
    distance = abs(palette[:, None] - palette[None]).sum(axis=2) + 9 * np.eye(len(palette))
    assert distance.min() > 0.03, "no two alike"
    assert distance[:10, :10].min() > 0.25, "the first ten are easy to tell apart"
    assert np.array_equal(colormap(rgb=False, maximum=255), palette[:, ::-1] * 255)
    assert len({tuple(c) for c in random_colors(72)}) == 72
    with pytest.raises(ValueError, match="maximum: expected 1 or 255, got 100"):
        colormap(maximum=100)


def test_metadata_is_any_object_with_get():
    names = SimpleNamespace(
        get=lambda key, default=None: ["a", "b"] if "classes" in key else default
    )
    assert Visualizer(GRAY, names).draw_instance_predictions(_predictions()).get_image().any()
