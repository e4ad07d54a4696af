# SPDX-License-Identifier: Apache-2.0
"""Sizes of PVT v1, PVT v2 and MiT, by the parameters that the papers count."""

import pytest
import torch

from vitdet_d2.analysis.counter import WorkCounter
from vitdet_d2.backbones import PVT, MiT, PVTv2, mit_arguments, pvt_arguments, pvt_v2_arguments

# Millions, as published, of which the ImageNet head of 1000 classes is to be taken away.
PVT_PARAMETERS = {"tiny": 13.2, "small": 24.5, "medium": 44.2, "large": 61.4}
PVT_V2_PARAMETERS = {
    "b0": 3.7,
    "b1": 14.0,
    "b2": 25.4,
    "b2_li": 22.6,
    "b3": 45.2,
    "b4": 62.6,
    "b5": 82.0,
}
# Billions of multiply-adds at 224 x 224, as published under the name of FLOPs.
PVT_WORK = {"tiny": 1.9, "small": 3.8, "medium": 6.7, "large": 9.8}
PVT_V2_WORK = {"b0": 0.6, "b1": 2.1, "b2": 4.0, "b2_li": 3.9, "b3": 6.9, "b4": 10.1, "b5": 11.8}
# Of the encoder alone.
MIT_PARAMETERS = {"b0": 3.4, "b1": 13.1, "b2": 24.2, "b3": 44.0, "b4": 60.8, "b5": 81.4}


def millions(kind, arguments):
    with torch.device("meta"):
        net = kind(**arguments)
    return sum(p.numel() for p in net.parameters()) / 1e6, net


@pytest.mark.parametrize("size", PVT_PARAMETERS)
def test_pvt_has_the_published_number_of_parameters(size):
    count, net = millions(PVT, pvt_arguments(size))
    head = (net.embed_dims[-1] + 1) * 1000 / 1e6
    assert count + head == pytest.approx(PVT_PARAMETERS[size], abs=0.06)


@pytest.mark.parametrize("size", PVT_V2_PARAMETERS)
def test_pvt_v2_has_the_published_number_of_parameters(size):
    count, net = millions(PVTv2, pvt_v2_arguments(size))
    head = (net.embed_dims[-1] + 1) * 1000 / 1e6
    assert count + head == pytest.approx(PVT_V2_PARAMETERS[size], abs=0.06)


@pytest.mark.parametrize("size", MIT_PARAMETERS)
def test_mit_has_the_published_number_of_parameters(size):
    count, _ = millions(MiT, mit_arguments(size))
    assert count == pytest.approx(MIT_PARAMETERS[size], abs=0.1)


@pytest.mark.parametrize(
    ("kind", "arguments", "published"),
    [(PVT, pvt_arguments(size), work) for size, work in PVT_WORK.items()]
    + [(PVTv2, pvt_v2_arguments(size), work) for size, work in PVT_V2_WORK.items()],
)
def test_work_is_what_is_published(kind, arguments, published):
    _, net = millions(kind, arguments)
    counter = WorkCounter()
    with counter.counting(net), torch.no_grad():
        net(torch.zeros(1, 3, 224, 224, device="meta"))
    products = sum(work.flops for work in counter.parts.values()) / 2e9
    assert products == pytest.approx(published, abs=0.09)


@pytest.mark.parametrize("arguments", [pvt_arguments, pvt_v2_arguments, mit_arguments])
def test_unknown_size_is_named(arguments):
    with pytest.raises(ValueError, match=r"size: expected one of .*, got 'huge'"):
        arguments("huge")
