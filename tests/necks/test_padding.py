# SPDX-License-Identifier: Apache-2.0
"""On an installed Detectron2: tests/parity/test_necks.py."""

import pytest

from tests.necks.neck_cases import NECKS, check_batches_obey


@pytest.mark.parametrize("name", NECKS)
def test_batches_obey(name):
    check_batches_obey(name)
