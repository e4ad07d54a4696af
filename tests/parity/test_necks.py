# SPDX-License-Identifier: Apache-2.0
"""Our necks on an installed Detectron2: its FPN below them, its batches through them.

export PYTHONPATH=DETECTRON2_CHECKOUT VITDET_D2_RUNTIME=installed
pytest -m parity tests/parity/test_necks.py
"""

import pytest
from detectron2.modeling.backbone import vit as original

from tests.necks.neck_cases import NECKS, check_batches_obey
from tests.necks.test_multi_tap_fpn import check_against_formula

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif("vitdet_d2" in original.ViT.__module__, reason="no Detectron2 is installed"),
]


@pytest.mark.parametrize("name", NECKS)
def test_batches_obey(name):
    check_batches_obey(name)


@pytest.mark.parametrize("norm", ["LN", "GN", ""])
@pytest.mark.parametrize("name", ["multi_tap", "last_map"])
def test_fpn_matches_the_formula(name, norm):
    check_against_formula(name, norm)
