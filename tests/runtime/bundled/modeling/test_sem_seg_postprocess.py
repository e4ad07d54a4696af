# SPDX-License-Identifier: Apache-2.0
"""Class scores in the size of the picture; those of detections are tested with the models."""

from __future__ import annotations

import torch
from detectron2.modeling.postprocessing import sem_seg_postprocess


def test_padding_is_cut_and_the_size_stays() -> None:
    scores = torch.rand(3, 6, 8)
    assert torch.equal(sem_seg_postprocess(scores, (4, 5), 4, 5), scores[:, :4, :5])


def test_doubled_ramp_is_linear_between_pixel_centres() -> None:
    ramp = torch.full((1, 4, 8), 99.0)  # 99 is padding
    ramp[:, :2, :4] = torch.arange(4.0)
    doubled = sem_seg_postprocess(ramp, (2, 4), 4, 8)
    # Centres of the new pixels lie at -0.25, 0.25, 0.75, ... of the old ones; edges are repeated.
    expected = torch.tensor([0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0])
    torch.testing.assert_close(doubled, expected.expand(1, 4, 8), rtol=0, atol=1e-6)
