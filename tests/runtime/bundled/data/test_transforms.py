# SPDX-License-Identifier: Apache-2.0
"""Transforms and augmentations: hand cases, the protocol, the random numbers drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

from tests.runtime.bundled.data.images import pixels

IMAGE = pixels(6, 8)


def test_resize_of_8_bit_images_is_pillows():
    resize = T.ResizeTransform(6, 8, 3, 5)
    expected = np.asarray(Image.fromarray(IMAGE).resize((5, 3), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize.apply_image(IMAGE), expected)
    grey = resize.apply_image(IMAGE[:, :, :1])
    assert grey.shape == (3, 5, 1)
    np.testing.assert_array_equal(grey[:, :, 0], expected[:, :, 0])


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 1), (6, 8, 3)])
def test_resize_of_floating_point_images(shape):
    image = np.full(shape, 0.25, dtype=np.float32)[::-1]  # a negative stride, as after a flip
    resized = T.ResizeTransform(6, 8, 12, 4).apply_image(image)
    assert resized.shape == (12, 4, *shape[2:])
    np.testing.assert_allclose(resized, 0.25)
    with pytest.raises(ValueError, match=r"not available for float32"):
        T.ResizeTransform(6, 8, 12, 4, Image.Resampling.LANCZOS).apply_image(image)


@pytest.mark.parametrize("dtype", [np.uint8, bool])
def test_resize_of_labels_takes_the_nearest(dtype):
    labels = np.array([[0, 1], [1, 0]], dtype=dtype)
    resized = T.ResizeTransform(2, 2, 4, 4).apply_segmentation(labels)
    assert resized.dtype == dtype
    np.testing.assert_array_equal(resized, labels.repeat(2, axis=0).repeat(2, axis=1))


def test_resize_keeps_fractions_of_whole_numbers_and_inverts():
    resize = T.ResizeTransform(6, 8, 9, 4)
    points = np.array([[3, 5]])
    np.testing.assert_array_equal(resize.apply_coords(points), [[1.5, 7.5]])
    np.testing.assert_array_equal(resize.inverse().apply_coords(np.array([[1.5, 7.5]])), points)
    with pytest.raises(ValueError, match=r"made for an image of 6 x 8"):
        resize.apply_image(pixels(8, 6))


def test_color_transform_leaves_coordinates_alone():
    invert = T.PILColorTransform(lambda image: image.point(lambda v: 255 - v))
    np.testing.assert_array_equal(invert.apply_image(IMAGE), 255 - IMAGE)
    points = np.array([[1.0, 2.0]])
    assert invert.apply_coords(points) is points
    assert isinstance(invert.inverse(), T.NoOpTransform)
    with pytest.raises(ValueError, match=r"op must be callable"):
        T.ColorTransform(3)


# Measured on Detectron2 02b5c4e
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((480, 640, 1024, 1024), (768, 1024)),
        ((427, 640, 800, 1333), (800, 1199)),
        ((333, 500, 800, 1333), (800, 1201)),
        ((100, 1000, 800, 1333), (133, 1333)),
        ((1, 3, 5, 9), (3, 9)),
        ((375, 500, 640, 640), (480, 640)),
    ],
)
def test_shortest_edge_sizes(arguments, expected):
    assert T.ResizeShortestEdge.get_output_shape(*arguments) == expected


def test_shortest_edge_draws_from_range_or_choice():
    drawn = T.ResizeShortestEdge((5, 7))
    assert {drawn.get_transform(IMAGE).new_h for _ in range(60)} == {5, 6, 7}
    chosen = T.ResizeShortestEdge([5, 9], sample_style="choice")
    assert {chosen.get_transform(IMAGE).new_h for _ in range(40)} == {5, 9}
    assert isinstance(T.ResizeShortestEdge(0).get_transform(IMAGE), T.NoOpTransform)
    with pytest.raises(ValueError, match=r"sample_style must be"):
        T.ResizeShortestEdge(5, sample_style="any")
    with pytest.raises(ValueError, match=r"must be \(smallest, largest\)"):
        T.ResizeShortestEdge([1, 2, 3])


def test_flip_mirrors_image_and_points():
    image, transforms = T.apply_augmentations([T.RandomFlip(prob=1.0)], IMAGE)
    np.testing.assert_array_equal(image, IMAGE[:, ::-1])
    np.testing.assert_array_equal(transforms.apply_box(np.array([[1.0, 2, 3, 4]])), [[5, 2, 7, 4]])
    vertical = T.RandomFlip(prob=1.0, horizontal=False, vertical=True)
    image, _ = T.apply_augmentations([vertical], IMAGE)
    np.testing.assert_array_equal(image, IMAGE[::-1])
    assert isinstance(T.RandomFlip(prob=0.0).get_transform(IMAGE), T.NoOpTransform)
    with pytest.raises(ValueError, match=r"exactly one of horizontal and vertical"):
        T.RandomFlip(vertical=True)


def test_fixed_size_crop_of_a_larger_image_draws_one_number_for_both_directions():
    image = pixels(20, 30)
    np.random.seed(3)
    crop, pad = T.FixedSizeCrop((8, 10)).get_transform(image).transforms
    np.random.seed(3)
    position = np.random.uniform(0.0, 1.0)
    assert (crop.y0, crop.x0) == (round(12 * position), round(20 * position))
    np.testing.assert_array_equal(
        pad.apply_image(crop.apply_image(image)),
        image[crop.y0 : crop.y0 + 8, crop.x0 : crop.x0 + 10],
    )


def test_fixed_size_crop_of_a_smaller_image_pads_or_not():
    image, transforms = T.apply_augmentations([T.FixedSizeCrop((8, 6), pad_value=7)], IMAGE)
    assert image.shape == (8, 6, 3)
    assert (image[6:] == 7).all()
    labels = transforms.apply_segmentation(np.ones((6, 8), dtype=np.uint8))
    assert (labels[:6] == 1).all()
    assert (labels[6:] == 255).all()
    image, _ = T.apply_augmentations([T.FixedSizeCrop((20, 20), pad=False)], IMAGE)
    np.testing.assert_array_equal(image, IMAGE)


@pytest.mark.parametrize(
    ("kind", "size", "expected"),
    [("relative", (0.5, 0.25), (3, 2)), ("absolute", (4, 100), (4, 8))],
)
def test_random_crop_sizes(kind, size, expected):
    image, _ = T.apply_augmentations([T.RandomCrop(kind, size)], IMAGE)
    assert image.shape[:2] == expected


def test_random_crop_ranges():
    relative = T.RandomCrop("relative_range", (0.5, 0.25))
    sizes = np.array([relative.get_crop_size((100, 200)) for _ in range(200)])
    assert 50 <= sizes[:, 0].min() < 60 < 90 < sizes[:, 0].max() <= 100
    assert 50 <= sizes[:, 1].min() < 65 < 180 < sizes[:, 1].max() <= 200
    absolute = T.RandomCrop("absolute_range", (3, 5))
    assert {absolute.get_crop_size((4, 100)) for _ in range(90)} == {
        (h, w) for h in (3, 4) for w in (3, 4, 5)
    }
    with pytest.raises(ValueError, match=r"crop_type must be one of"):
        T.RandomCrop("any", (1, 1))
    with pytest.raises(ValueError, match=r"smallest, largest"):
        T.RandomCrop("absolute_range", (5, 3))


def test_scale_and_fixed_resizes():
    fit = T.ResizeScale(2.0, 2.0, target_height=10, target_width=10).get_transform(IMAGE)
    assert (fit.new_h, fit.new_w) == (15, 20)
    tiny = T.ResizeScale(0.001, 0.001, 10, 10).get_transform(IMAGE)
    assert (tiny.new_h, tiny.new_w) == (1, 1)  # Detectron2 fails on an image without pixels
    fixed = T.Resize(5).get_transform(IMAGE)
    assert (fixed.new_h, fixed.new_w) == (5, 5)
    one_of = T.RandomResize([(4, 5), (6, 7)])
    assert {(t.new_h, t.new_w) for t in (one_of.get_transform(IMAGE) for _ in range(40))} == {
        (4, 5),
        (6, 7),
    }


@pytest.mark.parametrize(
    ("augmentation", "reference"),
    [
        (T.RandomBrightness(0.5, 0.5), IMAGE * 0.5),
        (T.RandomContrast(0.5, 0.5), IMAGE * 0.5 + IMAGE.mean() * 0.5),
        (T.RandomSaturation(0.0, 0.0), (IMAGE @ [0.299, 0.587, 0.114])[..., None].repeat(3, -1)),
    ],
)
def test_colour_augmentations(augmentation, reference):
    image, _ = T.apply_augmentations([augmentation], IMAGE)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image, reference, atol=1.0)  # cut to whole numbers


def test_saturation_needs_three_channels():
    with pytest.raises(ValueError, match=r"RandomSaturation needs an RGB image"):
        T.RandomSaturation(0.5, 1.5).get_transform(IMAGE[:, :, :1])


def test_random_apply_frequency():
    sometimes = T.RandomApply(T.HFlipTransform(8), prob=0.25)
    kinds = [type(sometimes(T.AugInput(IMAGE))).__name__ for _ in range(400)]
    assert 70 < kinds.count("HFlipTransform") < 130
    with pytest.raises(ValueError, match=r"prob must be in \[0, 1\]"):
        T.RandomApply(T.NoOpTransform(), prob=1.5)


class _NeedsBoxes(T.Augmentation):
    def __init__(self, margin=1):
        self._init(locals())

    def get_transform(self, image, boxes):
        x0, y0, x1, y1 = boxes[0].astype(int)
        return T.CropTransform(x0, y0, x1 - x0 + self.margin, y1 - y0)


def test_arguments_are_taken_by_name():
    aug_input = T.AugInput(
        IMAGE, boxes=np.array([[1.0, 2, 4, 5]]), sem_seg=np.zeros((6, 8), dtype=np.uint8)
    )
    transforms = aug_input.apply_augmentations([_NeedsBoxes(margin=2), T.NoOpTransform()])
    assert len(transforms) == 2
    assert aug_input.image.shape[:2] == aug_input.sem_seg.shape == (3, 5)
    np.testing.assert_array_equal(aug_input.boxes, [[0, 0, 3, 3]])
    assert repr(_NeedsBoxes(margin=2)) == "_NeedsBoxes(margin=2)"
    assert repr(_NeedsBoxes()) == "_NeedsBoxes()"


def test_protocol_errors():
    class Wrong(T.Augmentation):
        def get_transform(self, image):
            return image

    class Variable(T.Augmentation):
        def get_transform(self, *anything):
            return T.NoOpTransform()

    with pytest.raises(TypeError, match=r"must return a Transform, got ndarray"):
        Wrong()(T.AugInput(IMAGE))
    with pytest.raises(TypeError, match=r"variable number of arguments"):
        Variable()(T.AugInput(IMAGE))
    with pytest.raises(NotImplementedError, match=r"defines no get_transform"):
        T.Augmentation().get_transform(IMAGE)
    with pytest.raises(TypeError, match=r"expected an Augmentation or a Transform, got int"):
        T.AugmentationList([3])


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ([[1]], TypeError, r"must be a numpy array, got list"),
        (IMAGE.astype(np.int64), TypeError, r"uint8 or floating point, got int64"),
        (IMAGE[None], ValueError, r"\(H, W\) or \(H, W, C\), got shape"),
    ],
)
def test_input_must_be_an_image(image, error, message):
    with pytest.raises(error, match=message):
        T.AugInput(image)


@pytest.mark.parametrize("channels", [0, slice(1), slice(3)])
def test_extent_of_whole_pixels_is_a_crop_that_may_stick_out(channels):
    image = pixels(6, 8)[:, :, channels]
    inside = T.ExtentTransform((2, 1, 7, 5), (4, 5))
    np.testing.assert_array_equal(inside.apply_image(image), image[1:5, 2:7])
    outside = T.ExtentTransform((-1, -2, 3, 2), (4, 4), fill=9).apply_image(image)
    assert outside.shape == (4, 4, *image.shape[2:])
    np.testing.assert_array_equal(outside[2:, 1:], image[:2, :3])
    assert (outside[:2] == 9).all()
    assert (outside[:, 0] == 9).all()


def test_extent_moves_points_and_labels_along():
    transform = T.ExtentTransform((2, 1, 6, 5), (8, 8))
    corners = np.array([[2, 1], [6, 5], [4, 3]])
    assert transform.apply_coords(corners).tolist() == [[0, 0], [8, 8], [4, 4]]
    labels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    expected = labels[1:5, 2:6].repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(transform.apply_segmentation(labels), expected)


def test_random_extent_ranges():
    image = pixels(20, 40)
    for _ in range(50):
        x0, y0, x1, y1 = T.RandomExtent((0.5, 2.0), (0.2, 0.1)).get_transform(image).src_rect
        assert 20 <= x1 - x0 <= 80
        assert (x1 - x0) / (y1 - y0) == pytest.approx(2)
        assert abs((x0 + x1) / 2 - 20) <= 4
        assert abs((y0 + y1) / 2 - 10) <= 1
    still = T.RandomExtent((1, 1), (0, 0)).get_transform(image)
    assert still.output_size == (20, 40)
    np.testing.assert_array_equal(still.apply_image(image), image)


def test_lighting_adds_one_colour_along_the_components():
    image = pixels(5, 6).astype(np.float64)
    np.random.seed(3)
    colour = T.RandomLighting(2.0).get_transform(image).apply_image(image) - image
    np.random.seed(3)
    weights = np.random.normal(scale=2.0, size=3) * [0.2175, 0.0188, 0.0045]
    components = [[-0.5675, -0.5808, -0.5836], [0.7192, -0.0045, -0.6948], [0.4009, -0.814, 0.4203]]
    expected = sum(w * np.array(c) for w, c in zip(weights, components, strict=True))
    np.testing.assert_allclose(colour, np.broadcast_to(expected, image.shape), atol=1e-4)
    with pytest.raises(ValueError, match="RandomLighting needs an RGB image"):
        T.RandomLighting(1.0).get_transform(image[..., :1])


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_scripted_output_shape_is_the_same():
    def shape(height: int, width: int) -> tuple[int, int]:
        return T.ResizeShortestEdge.get_output_shape(height, width, 80, 133)

    scripted = torch.jit.script(shape)
    for height, width in [(10, 10), (8, 100), (480, 641), (641, 480)]:
        assert scripted(height, width) == shape(height, width)


def test_wrong_arguments_are_assertions_too():
    """Projects written for Detectron2, which asserts, may catch AssertionError."""
    with pytest.raises(AssertionError, match=r"prob must be in \[0, 1\], got 1.1"):
        T.RandomApply(T.NoOpTransform(), prob=1.1)
    with pytest.raises(AssertionError, match="RandomFlip needs exactly one"):
        T.RandomFlip(0.5, vertical=True)


def test_list_of_augmentations_shows_them():
    shown = repr(T.AugmentationList([T.RandomFlip(prob=0.25), T.Resize(3)]))
    assert shown == "AugmentationList[RandomFlip(prob=0.25), Resize(shape=(3, 3))]"
