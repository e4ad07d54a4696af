# SPDX-License-Identifier: Apache-2.0
"""Instances: fields, selection, joining, pickling."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from detectron2.structures import Boxes, Instances


def two() -> Instances:
    instances = Instances((4, 6), gt_classes=torch.tensor([3, 7]))
    instances.gt_boxes = Boxes([[0, 0, 1, 1], [1, 1, 2, 2]])
    instances.names = ["a", "b"]
    return instances


def test_fields() -> None:
    instances = two()
    assert instances.image_size == (4, 6)
    assert len(instances) == 2
    assert instances.has("gt_boxes")
    assert not instances.has("scores")
    assert list(instances.get_fields()) == ["gt_classes", "gt_boxes", "names"]
    assert instances.get("names") is instances.names
    instances.remove("names")
    with pytest.raises(AttributeError, match="names"):
        _ = instances.names
    instances._note = 5  # private attributes are no fields
    assert "_note" not in instances.get_fields()


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="3"):
        two().scores = torch.zeros(3)
    with pytest.raises(NotImplementedError, match="Instances"):
        len(Instances((1, 1)))
    with pytest.raises(NotImplementedError, match="iterable"):
        iter(two())


def test_selection_applies_to_every_field() -> None:
    instances = two()
    last = instances[-1]
    assert last.gt_classes.tolist() == [7]
    assert last.gt_boxes.tensor.tolist() == [[1, 1, 2, 2]]
    assert last.names == ["b"]
    assert instances[0].names == ["a"], "an index selects one instance, not all from there on"
    assert len(instances[2:]) == 0
    instances.remove("names")
    assert instances[instances.gt_classes == 3].gt_classes.tolist() == [3]
    assert instances[torch.tensor([1, 1])].gt_classes.tolist() == [7, 7]
    with pytest.raises(IndexError, match=r"2|range"):
        instances[2]


def test_join_and_move() -> None:
    joined = Instances.cat([two(), two()])
    assert joined.gt_classes.tolist() == [3, 7, 3, 7]
    assert joined.names == ["a", "b", "a", "b"]
    assert len(joined.gt_boxes) == 4
    one = two()
    assert Instances.cat([one]) is one
    assert one.to("cpu").names == ["a", "b"]
    with pytest.raises(ValueError, match="expected at least one Instances"):
        Instances.cat([])
    with pytest.raises(ValueError, match="image sizes differ"):
        Instances.cat([two(), Instances((1, 1), gt_classes=[1])])
    with pytest.raises(ValueError, match=r"type|joined"):
        Instances.cat([Instances((1, 1), x="ab"), Instances((1, 1), x="cd")])


def test_survives_pickling_and_copying() -> None:
    for other in (pickle.loads(pickle.dumps(two())), copy.deepcopy(two())):
        assert other.image_size == (4, 6)
        assert other.gt_classes.tolist() == [3, 7]
        assert other.names == ["a", "b"]


def test_prints_its_size() -> None:
    assert "num_instances=2, image_height=4, image_width=6" in str(two())
