# SPDX-License-Identifier: Apache-2.0
"""PVT v1, PVT v2 and MiT give what their official classes give, at any image size."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.backbones.pyramid_case import CASES, NAMES, WITH_GRADIENTS, images, make
from tests.backbones.vit_case import fingerprint, run

GOLDEN = load_file(Path(__file__).with_name("golden_pyramid.safetensors"))
# Sums of up to 500 000 values of order 1, each of them to about 1e-14.
TOLERANCE = {"atol": 1e-8, "rtol": 1e-9}


def check(case, values):
    expected = {key.removeprefix(case): v for key, v in GOLDEN.items() if key.startswith(case)}
    expected = {key: v for key, v in expected.items() if "/" not in key}
    assert set(values) == set(expected)
    for key, value in values.items():
        torch.testing.assert_close(fingerprint(value), expected[key], **TOLERANCE)


@pytest.mark.parametrize(("name", "hw"), [case for case in CASES if case[1] != WITH_GRADIENTS])
def test_maps_match_the_official_class(name, hw):
    with torch.no_grad():
        check(f"{name}/{hw[0]}x{hw[1]}/", make(name)(images(*hw)))


@pytest.mark.parametrize("name", NAMES)
def test_maps_and_gradients_match_the_official_class(name):
    maps, gradients = run(make(name), images(*WITH_GRADIENTS))
    case = f"{name}/{WITH_GRADIENTS[0]}x{WITH_GRADIENTS[1]}/"
    check(case, maps)
    check(f"{case}gradient/", gradients)
