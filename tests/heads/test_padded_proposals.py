# SPDX-License-Identifier: Apache-2.0
"""Empty proposals are given to heads that know them, and to no others."""

from __future__ import annotations

import logging

import pytest
from detectron2.modeling import roi_heads
from torch import nn

from tests.heads.test_rpn import arguments
from vitdet_d2.heads import RPN, CascadeROIHeads, StandardROIHeads
from vitdet_d2.heads.padded_proposals import settle_padding


class OwnSampling(StandardROIHeads):
    """A user's, written for Detectron2."""

    label_and_sample_proposals = roi_heads.StandardROIHeads.label_and_sample_proposals


@pytest.mark.parametrize(
    ("heads", "padded"),
    [
        (StandardROIHeads, True),
        (CascadeROIHeads, True),
        (roi_heads.StandardROIHeads, False),
        (OwnSampling, False),
    ],
)
def test_only_heads_that_leave_empty_places_out_get_them(
    heads: type[nn.Module], padded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = nn.Module()
    model.proposal_generator = RPN(**arguments(), pad_proposals=True)
    model.roi_heads = heads.__new__(heads)
    nn.Module.__init__(model.roi_heads)
    assert settle_padding(model) is model
    assert model.proposal_generator.pad_proposals is padded
    assert ("pad_proposals is switched off" in caplog.text) is not padded
