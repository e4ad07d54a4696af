# SPDX-License-Identifier: Apache-2.0
"""Images of noise, with objects that a detector can be trained on."""

from __future__ import annotations

import pytest
import torch

from vitdet_d2.analysis.synthetic import noise_batch, noise_images


@pytest.mark.parametrize("masks", ["polygon", "bitmask", None])
def test_batches_are_what_a_loader_gives(masks):
    batch = noise_batch(2, (96, 64), num_objects=5, num_classes=3, masks=masks)
    assert len(batch) == 2
    assert not torch.equal(batch[0]["image"], batch[1]["image"])
    for sample in batch:
        assert sample["image"].shape == (3, 96, 64)
        assert sample["image"].dtype == torch.uint8
        objects = sample["instances"]
        assert objects.image_size == (96, 64)
        boxes = objects.gt_boxes.tensor
        assert boxes.shape == (5, 4)
        assert (boxes[:, 2:] - boxes[:, :2] >= torch.tensor([4.0, 6.0]) - 1e-4).all()
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([64.0, 96.0, 64.0, 96.0])).all()
        assert set(objects.gt_classes.tolist()) <= {0, 1, 2}
        assert objects.has("gt_masks") == (masks is not None)
        if masks is not None:
            # An ellipse in each box, up to corners and pixels.
            inside = objects.gt_masks.get_bounding_boxes().tensor
            assert (inside - boxes).abs().max() < 2.5


def test_the_same_at_every_call():
    first, second = (noise_images(1, (8, 8), channels=4)[0] for _ in range(2))
    assert torch.equal(first["image"], second["image"])
    assert first["image"].shape == (4, 8, 8)
    assert (first["height"], first["width"]) == (8, 8)
