# SPDX-License-Identifier: Apache-2.0
"""Reading one batch ahead; and copies on CUDA, where there is one."""

from __future__ import annotations

import pytest
import torch

from tests.data.test_batch_tensors import _batch, _tensors
from vitdet_d2.data.batch_tensors import pack_polygons
from vitdet_d2.data.device_batches import CudaCopies, DeviceBatches, ahead, copies_to


class Recorder:
    """Copies nothing, and writes down when."""

    def __init__(self):
        self.events = []

    def start(self, batch):
        self.events.append(("start", batch))
        return batch

    def finish(self, pending):
        self.events.append(("finish", pending))
        return pending


def _failing(count):
    yield from range(count)
    raise KeyError("gone")


def test_next_batch_is_on_its_way_when_one_is_handed_out():
    copies = Recorder()
    batches = ahead(range(3), copies)
    assert next(batches) == 0
    assert copies.events == [("start", 0), ("start", 1), ("finish", 0)]
    assert list(batches) == [1, 2]
    assert copies.events[3:] == [("start", 2), ("finish", 1), ("finish", 2)]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_all_batches_come(count):
    assert list(ahead(range(count), Recorder())) == list(range(count))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_error_comes_after_the_batches_before_it(count):
    batches = ahead(_failing(count), Recorder())
    assert [next(batches) for _ in range(count)] == list(range(count))
    with pytest.raises(KeyError, match="gone"):
        next(batches)


def test_the_loader_ends_with_the_iterator():
    ended = []

    def batches():
        try:
            yield from range(10)
        finally:
            ended.append(True)

    iterator = ahead(batches(), Recorder())
    next(iterator)
    iterator.close()
    del iterator
    assert ended


def test_nothing_is_done_on_the_cpu():
    assert copies_to(torch.device("cpu")) is None
    loader = DeviceBatches([1, 2], torch.device("cpu"))
    assert (len(loader), list(loader), list(loader)) == (2, [1, 2], [1, 2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_arrive_on_cuda():
    device = torch.device("cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        copied = list(ahead([_batch() for _ in range(4)], CudaCopies(device)))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for batch in copied:
        assert {tensor.device.type for tensor in _tensors(batch)} == {"cuda"}
        for there, here in zip(_tensors(batch), _tensors(pack_polygons(_batch())), strict=True):
            assert torch.equal(there.cpu(), here)
