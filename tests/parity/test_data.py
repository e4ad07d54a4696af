# SPDX-License-Identifier: Apache-2.0
"""Order of the training loader, the mapper's stored numbers, and clipped polygons.

PYTHONPATH=DETECTRON2_CHECKOUT VITDET_D2_RUNTIME=installed pytest tests/parity/test_data.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from detectron2 import data as d2

import vitdet_d2
from tests.data import test_mapper as our_mapper
from tests.runtime.bundled.data import test_dataset_mapper as mapper_cases
from vitdet_d2.data.fixed_size_crop import FixedSizeCrop
from vitdet_d2.data.loader import build_detection_train_loader
from vitdet_d2.data.mapper import DatasetMapper
from vitdet_d2.geometry.polygon_clip import clip_polygon

RUNTIME = Path(vitdet_d2.__file__).parent / "runtime"

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(
        Path(d2.__file__).is_relative_to(RUNTIME), reason="no Detectron2 is installed"
    ),
]

record = mapper_cases.record
test_large_scale_jitter = mapper_cases.test_large_scale_jitter_matches_detectron2
test_exact_samples = our_mapper.test_exact_samples_are_detectron2s
test_other_augmentations = mapper_cases.test_other_augmentations_match_detectron2


@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_order(grouping, num_workers):
    sizes = np.random.default_rng(1).integers(10, 20, (37, 2)).tolist()
    records = [{"image_id": i, "width": w, "height": h} for i, (w, h) in enumerate(sizes)]
    arguments = {"mapper": None, "total_batch_size": 3, "aspect_ratio_grouping": grouping}
    theirs = d2.build_detection_train_loader(
        records,
        sampler=d2.samplers.TrainingSampler(37, seed=5),
        num_workers=num_workers,
        **arguments,
    )
    ours = build_detection_train_loader(records, seed=5, **arguments)
    assert list(islice(ours, 40)) == list(islice(theirs, 40))


def test_draws_of_extent_and_lighting():
    """In a process of its own the bundled runtime draws the same numbers."""
    code = """
import vitdet_d2, numpy as np, sys
from detectron2.data import transforms as T
image = np.arange(40 * 30 * 3).reshape(40, 30, 3).astype(np.uint8)
np.random.seed(4)
for augmentation in (T.RandomExtent((0.3, 1.6), (0.5, 0.4)), T.RandomLighting(40.0)) * 3:
    transform = augmentation.get_transform(image)
    print(transform.apply_image(image).tolist())
    points = transform.apply_coords(np.array([[3.0, 4.0], [20.0, 9.0]]))
    print([f"{v:.3f}" for v in points.flat])  # theirs are float32
"""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "VITDET_D2_RUNTIME": runtime},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for runtime in ("bundled", "installed")
    ]
    assert outputs[0] == outputs[1]
    assert len(outputs[0].splitlines()) == 12


@pytest.mark.parametrize("grouping", [True, False])
def test_training_order_of_repeated_images(grouping):
    rng = np.random.default_rng(3)
    records = [
        {
            "image_id": i,
            "width": int(w),
            "height": int(h),
            "annotations": [{"category_id": int(c)} for c in rng.geometric(0.3, rng.integers(5))],
        }
        for i, (w, h) in enumerate(rng.integers(10, 20, (60, 2)))
    ]
    sampler = d2.samplers.RepeatFactorTrainingSampler
    factors = sampler.repeat_factors_from_category_frequency(records, 0.2)
    assert 1 < factors.max() < 4
    arguments = {"mapper": None, "total_batch_size": 3, "aspect_ratio_grouping": grouping}
    theirs = d2.build_detection_train_loader(
        records, sampler=sampler(factors, seed=5), num_workers=0, **arguments
    )
    ours = build_detection_train_loader(records, sampler=sampler(factors), seed=5, **arguments)
    expected = list(islice(theirs, 90))
    assert list(islice(ours, 90)) == expected
    ours.seek(41)
    assert list(islice(ours, 49)) == expected[41:]


@pytest.mark.parametrize(("threshold", "root"), [(0.2, True), (0.05, True), (0.3, False)])
def test_repeat_factors(threshold, root):
    """Detectron2's, against the formula of the bundled sampler, which is written out here."""
    rng = np.random.default_rng(4)
    classes = [rng.geometric(0.3, rng.integers(4)).tolist() for _ in range(50)]
    records = [{"annotations": [{"category_id": c} for c in found]} for found in classes]
    share = {c: np.mean([c in found for found in classes]) for found in classes for c in found}
    power = 0.5 if root else 1
    expected = [max([1.0, *((threshold / share[c]) ** power for c in found)]) for found in classes]
    theirs = d2.samplers.RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        records, threshold, root
    )
    np.testing.assert_allclose(theirs, expected, rtol=1e-6)


def _area(polygons):
    return sum(
        abs(p[:, 0] @ np.roll(p[:, 1], -1) - p[:, 1] @ np.roll(p[:, 0], -1)) / 2 for p in polygons
    )


def test_clipped_polygons():
    pytest.importorskip("shapely")
    rng = np.random.default_rng(2)
    for _ in range(200):
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 30)))
        radii = rng.uniform(5, 60, len(angles))
        star = np.stack([50 + radii * np.cos(angles), 50 + radii * np.sin(angles)], axis=1)
        if np.diff(angles, append=angles[0] + 2 * np.pi).max() > np.pi:
            continue  # the centre is outside: the outline may cross itself
        x0, y0, w, h = (int(v) for v in rng.integers((0, 0, 5, 5), (60, 60, 60, 60)))
        theirs = d2.transforms.CropTransform(x0, y0, w, h).apply_polygons([star.copy()])
        ours = [p - (x0, y0) for p in clip_polygon(star, (x0, y0, x0 + w, y0 + h))]
        assert _area(ours) == pytest.approx(_area(theirs), abs=1e-9)
        if theirs:
            for end in ("min", "max"):
                found, expected = (getattr(np.concatenate(p), end)(axis=0) for p in (ours, theirs))
                np.testing.assert_allclose(found, expected, atol=1e-9)


def _canonical(polygon):
    """Return the corners of ``[x0, y0, ...]`` from the first one on, counter-clockwise."""
    points = polygon.reshape(-1, 2)
    x, y = points.T
    if x @ np.roll(y, -1) < y @ np.roll(x, -1):
        points = points[::-1]
    return np.roll(points, -int(np.lexsort(points.round(6).T)[0]), axis=0)


def test_polygons_of_samples(tmp_path):
    """The same outlines: Detectron2's come out of shapely, which starts elsewhere."""
    pytest.importorskip("shapely")
    rng = np.random.default_rng(3)
    record = our_mapper._record(tmp_path, size=(300, 400))
    record["annotations"] = []
    for _ in range(20):
        angles = np.linspace(0, 2 * np.pi, rng.integers(5, 30), endpoint=False)
        radii = rng.uniform(5, 80, len(angles))
        star = (
            rng.uniform(50, 300, 2) + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
        )
        annotation = our_mapper.box_annotation(0, 0, 1, 1, 1)
        record["annotations"].append({**annotation, "segmentation": [star.reshape(-1).tolist()]})
    arguments = {"image_format": "RGB", "use_instance_mask": True, "recompute_boxes": True}
    sizes = {"min_scale": 0.1, "max_scale": 2.0, "target_height": 256, "target_width": 256}
    common = [d2.transforms.RandomFlip(), d2.transforms.ResizeScale(**sizes)]
    crops = [
        FixedSizeCrop((256, 256), pad=False),
        d2.transforms.FixedSizeCrop((256, 256), pad=False),
    ]
    compared = 0
    mappers = [
        cls(True, augmentations=[*common, crop], **arguments)
        for cls, crop in zip((DatasetMapper, d2.DatasetMapper), crops, strict=True)
    ]
    for seed in range(12):
        ours, theirs = (our_mapper._sample(mapper, record, seed)[0] for mapper in mappers)
        our_mapper._assert_equal(ours, theirs)
        pairs = (s["instances"].gt_masks.polygons for s in (ours, theirs))
        for our_pieces, their_pieces in zip(*pairs, strict=True):
            found, expected = (
                sorted(map(_canonical, p), key=lambda c: c.round(6).tolist())
                for p in (our_pieces, their_pieces)
            )
            assert len(found) == len(expected)
            for a, b in zip(found, expected, strict=True):
                assert a.shape == b.shape
                np.testing.assert_allclose(a, b, atol=1e-9)  # crossing points, in double precision
                compared += 1
    assert compared > 100
