# SPDX-License-Identifier: Apache-2.0
"""The data set wrappers, in this process and in loader workers."""

from __future__ import annotations

import copy
import pickle

import pytest
from detectron2.data.common import (
    AspectRatioGroupedDataset,
    DatasetFromList,
    MapDataset,
    ToIterableDataset,
    set_default_dataset_from_list_serialize_method,
)
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

ELEMENTS = [{"n": n, "text": "x" * n} for n in range(11)]


@pytest.mark.parametrize("serialize", [True, False, tuple])
def test_list_round_trip(serialize):
    dataset = DatasetFromList(copy.deepcopy(ELEMENTS), serialize=serialize)
    assert len(dataset) == 11
    assert [dataset[i] for i in range(11)] == ELEMENTS
    assert dataset[-1] == ELEMENTS[-1]
    with pytest.raises(IndexError, match=r"range"):
        dataset[11]


@pytest.mark.parametrize("serialize", [True, False])
def test_elements_are_copies(serialize):
    dataset = DatasetFromList(copy.deepcopy(ELEMENTS), serialize=serialize)
    dataset[3]["n"] = 99
    assert dataset[3]["n"] == 3


def test_serialize_must_be_bool_or_callable():
    with pytest.raises(TypeError, match=r"serialize must be a bool or a callable"):
        DatasetFromList([], serialize="yes")


def test_serialised_list_survives_pickling():
    dataset = pickle.loads(pickle.dumps(DatasetFromList(ELEMENTS)))
    assert dataset[5] == ELEMENTS[5]


def _even(n):
    return n * 10 if n % 2 == 0 else None


def test_none_is_replaced_in_a_map_style_data_set():
    dataset = MapDataset(list(range(10)), _even)
    assert dataset[4] == 40
    replaced = [dataset[5] for _ in range(20)]
    assert set(replaced) <= {0, 20, 40, 60, 80}
    with pytest.raises(RuntimeError, match=r"None for all 3 elements"):
        MapDataset([1, 3, 5], _even)[0]


class _Stream(IterableDataset):
    def __iter__(self):
        return iter(range(6))

    def __len__(self):
        return 6


def test_none_is_left_out_of_an_iterable_data_set():
    dataset = MapDataset(_Stream(), _even)
    assert isinstance(dataset, IterableDataset)
    assert list(dataset) == [0, 20, 40]
    assert len(dataset) == 6


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_share_the_sampler(num_workers):
    dataset = ToIterableDataset(list(range(8)), SequentialSampler(range(8)), shard_chunk_size=2)
    loader = DataLoader(dataset, batch_size=2, num_workers=num_workers, collate_fn=list)
    assert list(loader) == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_to_iterable_refuses_what_is_iterable_already():
    with pytest.raises(TypeError, match=r"map-style"):
        ToIterableDataset(_Stream(), SequentialSampler(range(6)))
    with pytest.raises(TypeError, match=r"sampler must be a torch Sampler"):
        ToIterableDataset([1], [0])


def test_groups_wide_and_tall():
    sizes = [(2, 1), (1, 2), (1, 1), (3, 1), (1, 3), (5, 4)]
    samples = [{"width": w, "height": h} for w, h in sizes]
    batches = list(AspectRatioGroupedDataset(samples, 2))
    assert batches == [[samples[1], samples[2]], [samples[0], samples[3]]]


def test_groups_keep_what_is_left_over_for_the_next_iteration():
    sizes = [(2, 1), (1, 2), (2, 1), (1, 2), (2, 1)]
    samples = [{"width": w, "height": h, "id": i} for i, (w, h) in enumerate(sizes)]
    grouped = AspectRatioGroupedDataset(samples, 2)
    assert next(iter(grouped))[0]["id"] == 0  # left at the first batch: 1 is kept
    second = [[sample["id"] for sample in batch] for batch in grouped]
    assert second == [[1, 1], [0, 2]]
    assert [[s["id"] for s in bucket] for bucket in grouped._buckets] == [[3], [4]]


def test_default_storage_can_be_changed_for_a_while():
    with set_default_dataset_from_list_serialize_method(tuple):
        changed = DatasetFromList([[1], [2]], serialize=True)
        assert DatasetFromList([[1]], serialize=False)._lst == [[1]]
    assert changed._lst == ([1], [2])
    assert not isinstance(DatasetFromList([[1]], serialize=True)._lst, tuple)
    with pytest.raises(KeyError), set_default_dataset_from_list_serialize_method(tuple):
        raise KeyError
    assert not isinstance(DatasetFromList([[1]], serialize=True)._lst, tuple)


def test_mapped_data_set_with_a_lambda_survives_pickling():
    pytest.importorskip("cloudpickle")
    again = pickle.loads(pickle.dumps(MapDataset([1, 2], lambda n: n * 10)))
    assert [again[0], again[1]] == [10, 20]
