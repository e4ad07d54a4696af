# SPDX-License-Identifier: Apache-2.0
"""The training loader: order against a slow reference, seeking, workers, bad images."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils.data import IterableDataset

from tests.data.test_device_batches import Recorder
from tests.runtime.bundled.data.images import make_records
from vitdet_d2.data import load_failures
from vitdet_d2.data.load_failures import LoadingError, worker_error
from vitdet_d2.data.loader import build_detection_train_loader
from vitdet_d2.errors import DataError

SIZES = [(4, 6), (6, 4), (5, 5), (4, 7), (7, 4), (3, 9), (8, 6)]


def _records(count=7):
    rng = np.random.default_rng(0)
    return [
        {"image_id": i, "file_name": f"{i}.png", "width": int(w), "height": int(h)}
        for i, (w, h) in enumerate(rng.integers(3, 9, (count, 2)))
    ]


def _draw(record):
    """A mapper that shows which random numbers it was given."""
    return {
        "id": record["image_id"],
        "numpy": np.random.uniform(),
        "python": random.random(),
        "torch": torch.rand(()).item(),
    }


def _ids(batches):
    return [[sample["id"] for sample in batch] for batch in batches]


def _loader(records=None, *, mapper=_draw, total_batch_size=2, seed=5, **arguments):
    return build_detection_train_loader(
        _records() if records is None else records,
        mapper=mapper,
        total_batch_size=total_batch_size,
        seed=seed,
        **arguments,
    )


def _reference(records, batch_size, count, *, grouping, seed, rank=0, world_size=1):
    """Detectron2's order, written down slowly."""
    generator = torch.Generator().manual_seed(seed)
    stream = [i for _ in range(60) for i in torch.randperm(len(records), generator=generator)]
    waiting, batches = {}, []
    for index in stream[rank::world_size]:
        record = records[int(index)]
        group = grouping and record["width"] > record["height"]
        waiting.setdefault(group, []).append(int(index))
        if len(waiting[group]) == batch_size:
            batches.append(waiting.pop(group))
    return batches[:count]


@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_order_is_detectron2s(monkeypatch, grouping, world_size):
    records = _records(11)
    monkeypatch.setattr(comm, "get_world_size", lambda: world_size)
    for rank in range(world_size):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        loader = _loader(records, total_batch_size=2 * world_size, aspect_ratio_grouping=grouping)
        expected = _reference(
            records, 2, 12, grouping=grouping, seed=5, rank=rank, world_size=world_size
        )
        assert _ids(islice(loader, 12)) == expected


def test_processes_share_an_epoch_without_overlap(monkeypatch):
    records = _records(12)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    seen = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        loader = _loader(records, total_batch_size=6, aspect_ratio_grouping=False)
        seen += [i for batch in _ids(islice(loader, 2)) for i in batch]
    assert sorted(seen) == list(range(12))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("grouping", [True, False])
def test_seek_continues_as_if_uninterrupted(num_workers, grouping):
    whole = list(islice(_loader(aspect_ratio_grouping=grouping), 9))
    loader = _loader(aspect_ratio_grouping=grouping, num_workers=num_workers)
    loader.seek(4)
    assert list(islice(loader, 5)) == whole[4:]
    assert loader.state() == {"seed": 5, "samples": 18}
    loader.seek(0)
    assert list(islice(loader, 3)) == whole[:3]
    assert list(islice(loader, 2)) == whole[3:5]  # goes on


REPEATS = torch.tensor([1.0, 2.5, 1.2, 3.0, 1.0, 1.9, 2.0])


def _repeated_order(count, *, seed, rank, world_size):
    """Repeat-factor sampling, written down slowly: epochs of unequal length, each shuffled."""
    generator = torch.Generator().manual_seed(seed)
    stream = []
    while len(stream) < count * world_size:
        draws, epoch = torch.rand(len(REPEATS), generator=generator), []
        for index, factor in enumerate(REPEATS):
            whole = int(factor)
            epoch += [index] * (whole + int(draws[index] < factor - whole))
        stream += [epoch[i] for i in torch.randperm(len(epoch), generator=generator)]
    return stream[rank::world_size][:count]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_repeated_images_keep_their_order_when_it_is_continued(num_workers):
    arguments = {"aspect_ratio_grouping": False, "num_workers": num_workers}
    sampler = RepeatFactorTrainingSampler(REPEATS, seed=99)  # the loader's seed takes its place
    whole = list(islice(_loader(sampler=sampler, **arguments), 20))
    expected = _repeated_order(40, seed=5, rank=0, world_size=1)
    assert [i for batch in _ids(whole) for i in batch] == expected
    assert len({sample["torch"] for batch in whole for sample in batch}) == 40, "never twice alike"
    loader = _loader(sampler=sampler, **arguments)
    loader.seek(13)
    assert list(islice(loader, 7)) == whole[13:]
    resumed = _loader(sampler=sampler, seed=1, **arguments)
    resumed.restore({"seed": 5, "samples": 26})
    assert list(islice(resumed, 7)) == whole[13:]


def test_processes_share_repeated_images_without_overlap(monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        sampler = RepeatFactorTrainingSampler(REPEATS, seed=5)
        loader = _loader(sampler=sampler, total_batch_size=6, aspect_ratio_grouping=False)
        shares.append([i for batch in _ids(islice(loader, 8)) for i in batch])
        assert shares[-1] == _repeated_order(16, seed=5, rank=rank, world_size=3)
    together = [index for place in zip(*shares, strict=True) for index in place]
    assert together == _repeated_order(48, seed=5, rank=0, world_size=1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_read_ahead_do_not_count(monkeypatch, num_workers):
    copies = Recorder()
    monkeypatch.setattr("vitdet_d2.data.loader.copies_to", lambda device: copies)
    expected = list(islice(_loader(), 6))
    loader = _loader(num_workers=num_workers)
    loader.to_device(torch.device("cuda"))
    batches = iter(loader)
    found = [next(batches) for _ in range(3)]
    assert [name for name, _ in copies.events].count("start") == 4
    assert loader.state() == {"seed": 5, "samples": 6}
    del batches
    resumed = _loader(num_workers=num_workers)
    resumed.restore(loader.state())
    found += list(islice(resumed, 3))
    assert found == expected


def test_unreadable_images_of_a_batch_ahead_are_not_counted_twice(tmp_path, monkeypatch):
    monkeypatch.setattr("vitdet_d2.data.loader.copies_to", lambda device: Recorder())
    records = make_records(tmp_path, SIZES)
    (tmp_path / "003.png").write_bytes(b"")
    mapper = DatasetMapper(True, augmentations=[], image_format="RGB")
    arguments = {"mapper": mapper, "total_batch_size": 1, "aspect_ratio_grouping": False}
    plain, ahead = _loader(records, **arguments), _loader(records, **arguments)
    ahead.to_device(torch.device("cuda"))
    batches = [[sample["image_id"] for [sample] in islice(loader, 14)] for loader in (plain, ahead)]
    assert batches[0] == batches[1]
    assert 3 not in batches[0]


def test_restore_takes_over_seed_and_place():
    first = _loader(seed=8)
    whole = list(islice(first, 4))
    state = first.state()
    expected = list(islice(first, 3))
    second = _loader(seed=1)
    second.restore(state)
    assert list(islice(second, 3)) == expected != whole[:3]
    with pytest.raises(ValueError, match=r"no multiple of the total batch size 2"):
        second.restore({"seed": 8, "samples": 3})
    with pytest.raises(ValueError, match=r"iteration must be at least 0"):
        second.seek(-1)


def test_random_numbers_belong_to_the_sample(monkeypatch):
    """One process or two: the same sample at the same position is augmented the same way."""

    def samples(world_size):
        monkeypatch.setattr(comm, "get_world_size", lambda: world_size)
        found = []
        for rank in range(world_size):
            monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
            loader = _loader(total_batch_size=4, aspect_ratio_grouping=False)
            found += [tuple(s.values()) for batch in islice(loader, 6) for s in batch]
        return found

    alone, together = samples(1), samples(2)
    assert sorted(alone) == sorted(together)
    assert len({numbers[1:] for numbers in alone}) == 24  # none drawn twice, in any generator
    assert all(len({n[i] for n in alone}) == 24 for i in (1, 2, 3))


def test_main_process_generators_are_left_alone():
    def state():
        return (
            np.random.get_state()[1].tobytes(),
            random.getstate(),
            torch.get_rng_state().numpy().tobytes(),
        )

    before = state()
    for num_workers in (0, 1):
        next(iter(_loader(num_workers=num_workers)))
        assert state() == before


def test_real_images_and_augmentations_do_not_depend_on_workers(tmp_path):
    records = make_records(tmp_path, SIZES)
    augmentations = [T.RandomFlip(), T.ResizeShortestEdge((4, 12))]
    mapper = DatasetMapper(
        True, augmentations=augmentations, image_format="RGB", use_instance_mask=True
    )
    runs = []
    for num_workers in (0, 2):
        loader = _loader(records, mapper=mapper, num_workers=num_workers)
        runs.append([sample for batch in islice(loader, 5) for sample in batch])
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)
    assert len({tuple(sample["image"].shape) for sample in runs[0]}) > 5


def test_seed_none_is_drawn_once_and_shared(monkeypatch):
    monkeypatch.setattr(comm, "shared_random_seed", lambda: 5)
    loader = _loader(seed=None)
    assert loader.state()["seed"] == 5
    assert list(islice(loader, 4)) == list(islice(_loader(seed=5), 4))


def test_samplers_seed():
    records = _records()
    own = TrainingSampler(7, seed=9)
    assert _loader(records, seed=None, sampler=own).state()["seed"] == 9
    ruled = _loader(records, seed=5, sampler=own)
    assert _ids(islice(ruled, 4)) == _ids(islice(_loader(records), 4))
    assert own._seed == 9  # the caller's own is not changed
    factors = torch.tensor([2.5, 1, 1, 1, 1, 1, 1])
    repeated = _loader(records, sampler=RepeatFactorTrainingSampler(factors, seed=0))
    whole = list(islice(repeated, 20))
    counts = np.bincount([i for batch in _ids(whole) for i in batch])
    assert counts[0] > 1.5 * counts[1:].max()
    repeated.seek(7)
    assert list(islice(repeated, 5)) == whole[7:12]


def test_collate_function():
    loader = _loader(collate_fn=lambda batch: torch.tensor([s["id"] for s in batch]))
    assert next(iter(loader)).tolist() == _ids(islice(_loader(), 1))[0]


def test_none_from_the_mapper_takes_another_record():
    def mapper(record):
        return None if record["image_id"] == 3 else _draw(record)

    loader = _loader(mapper=mapper)
    batches = _ids(islice(loader, 12))
    loader.seek(0)
    assert _ids(islice(loader, 12)) == batches
    assert 3 not in {i for batch in batches for i in batch}
    with pytest.raises(DataError, match=r"no training sample came out of 100 records"):
        next(iter(_loader(mapper=lambda record: None)))


def _damage(record):
    with open(record["file_name"], "r+b") as file:
        file.truncate(60)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_unreadable_image_is_replaced_and_named(tmp_path, caplog, num_workers):
    records = make_records(tmp_path, SIZES)
    mapper = DatasetMapper(True, augmentations=[], image_format="RGB")
    arguments = {"mapper": mapper, "aspect_ratio_grouping": False}
    intact = [s["image_id"] for b in islice(_loader(records, **arguments), 10) for s in b]
    _damage(records[2])
    with caplog.at_level(logging.WARNING):
        loader = _loader(records, num_workers=num_workers, **arguments)
        found = [s["image_id"] for b in islice(loader, 10) for s in b]
    assert [a for a, b in zip(intact, found, strict=True) if a != 2] == [
        b for a, b in zip(intact, found, strict=True) if a != 2
    ]
    assert 2 in intact
    assert 2 not in found
    warnings = [r.getMessage() for r in caplog.records if "skipped unreadable" in r.getMessage()]
    assert len(warnings) == 1  # once, however often it is met
    assert "002.png" in warnings[0]
    again = [s["image_id"] for b in islice(_loader(records, **arguments), 10) for s in b]
    assert found == again


@pytest.mark.parametrize("num_workers", [0, 2])
def test_too_many_unreadable_images_stop_the_run(tmp_path, num_workers):
    records = make_records(tmp_path, SIZES)
    mapper = DatasetMapper(True, augmentations=[], image_format="RGB")
    _damage(records[2])
    os.remove(records[5]["file_name"])
    loader = _loader(records, mapper=mapper, num_workers=num_workers)
    with pytest.raises(DataError, match=r"2 of 7 training images cannot be read, 1 are tol") as e:
        list(islice(loader, 20))
    assert "002.png" in str(e.value)
    assert "005.png" in str(e.value)
    assert "\n" not in str(e.value)


def test_budget_is_a_thousandth():
    assert load_failures.SkipBudget(num_records=3000).limit == 3
    assert load_failures.SkipBudget(num_records=10).limit == 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_wrong_size_names_the_image_in_one_line(tmp_path, num_workers):
    records = make_records(tmp_path, SIZES)
    for record in records:
        record["width"] += 1
    mapper = DatasetMapper(True, augmentations=[], image_format="RGB")
    loader = _loader(records, mapper=mapper, num_workers=num_workers)
    with pytest.raises(DataError, match=r"^[^\n]*00\d.png[^\n]*$"):
        next(iter(loader))


def test_other_value_errors_name_the_image_too():
    def mapper(record):
        raise ValueError("polygons are\nmissing")

    with pytest.raises(DataError, match=r"^\d.png \(image id \d\): polygons are missing$"):
        next(iter(_loader(mapper=mapper)))


def test_bugs_in_a_mapper_are_not_hidden():
    def mapper(record):
        raise KeyError("masks")

    with pytest.raises(KeyError, match=r"masks"):
        next(iter(_loader(mapper=mapper)))


def _die(record):
    os.kill(os.getpid(), signal.SIGKILL)


def test_dead_worker_is_explained():
    loader = _loader(mapper=_die, num_workers=2)
    with pytest.raises(LoadingError, match=r"worker died.*/dev/shm.*num_workers=1$"):
        next(iter(loader))


def test_only_the_loaders_own_errors_are_explained():
    other = RuntimeError("CUDA error")
    assert worker_error(other, 2) is other
    assert "does not answer" in str(worker_error(RuntimeError("DataLoader timed out after 3 s"), 2))


class _Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


@pytest.mark.parametrize(
    ("records", "arguments", "error", "message"),
    [
        (_Stream(), {}, TypeError, r"got an IterableDataset"),
        ([], {}, ValueError, r"has no records"),
        (_records(), {"total_batch_size": 0}, ValueError, r"positive multiple of the 1 processes"),
        ([{"image_id": 1, "file_name": "a"}], {}, ValueError, r"a lacks them.*grouping=False"),
    ],
)
def test_arguments_that_are_refused(records, arguments, error, message):
    with pytest.raises(error, match=message):
        _loader(records, **arguments)


def test_batch_must_divide_among_the_processes(monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 4)
    with pytest.raises(ValueError, match=r"positive multiple of the 4 processes, got 6"):
        _loader(total_batch_size=6)


@pytest.fixture
def spawn():
    """Workers start as new interpreters, as on macOS and Windows."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.usefixtures("spawn")
def test_spawned_workers(tmp_path):
    records = make_records(tmp_path, [(4, 6), (6, 4), (8, 6)])
    augmentations = [T.RandomFlip(), T.ResizeShortestEdge((4, 12))]
    mapper = DatasetMapper(True, augmentations=augmentations, image_format="RGB")
    runs = []
    for num_workers in (0, 1):
        loader = build_detection_train_loader(
            records, mapper=mapper, total_batch_size=2, seed=1, num_workers=num_workers
        )
        batches = iter(loader)
        runs.append([sample["image"] for _ in range(4) for sample in next(batches)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
