# SPDX-License-Identifier: Apache-2.0
"""Names to objects and back."""

from __future__ import annotations

import collections
import os.path

import pytest
import torch
from detectron2.utils.registry import Registry, _convert_target_to_string, locate


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("torch.nn.Conv2d", torch.nn.Conv2d),
        ("torch.optim.sgd.SGD", torch.optim.SGD),  # the package deletes the module's name
        ("collections.OrderedDict.fromkeys", collections.OrderedDict.fromkeys),
        ("os.path", os.path),
        ("torch", torch),
    ],
)
def test_locate(name: str, found: object) -> None:
    assert locate(name) == found


@pytest.mark.parametrize("name", ["no_such_thing.x", "torch.nn.NoSuch", "torch..nn", "", "os.a b"])
def test_locate_names_what_it_misses(name: str) -> None:
    with pytest.raises(ImportError, match=f"cannot locate '{name}'"):
        locate(name)


def test_shortest_name_wins() -> None:
    # Measured on Detectron2 02b5c4e.
    assert _convert_target_to_string(torch.optim.SGD) == "torch.optim.SGD"
    assert _convert_target_to_string(torch.nn.Conv2d) == "torch.nn.Conv2d"
    assert _convert_target_to_string(Registry) == "fvcore.common.registry.Registry"
    assert _convert_target_to_string(locate) == "detectron2.utils.registry.locate"
