# SPDX-License-Identifier: Apache-2.0
"""Waits for the device, one operator at a time, and the places that they are booked on."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision
from detectron2.structures import Boxes, Instances
from torch import Tensor

from vitdet_d2.analysis import host_syncs
from vitdet_d2.analysis.host_syncs import count_host_syncs, observe_host_syncs

X = torch.tensor([3.0, 1.0, 2.0])
MASK = X > 1.5
BOXES = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.5], [4.0, 4.0, 6.0, 6.0]])

# What waits for CUDA, how often.
WAITING: dict[str, tuple[Callable[[], object], int]] = {
    "item": (lambda: X[0].item(), 1),
    "float": (lambda: float(X.sum()), 1),
    "condition": (lambda: bool((X > 0).all()), 1),
    "tolist": (lambda: X.tolist(), 1),
    "numpy": (lambda: X.numpy(), 1),
    "cpu": (lambda: X.cpu(), 1),
    "to cpu": (lambda: X.to("cpu"), 1),
    "to a device called cpu, then reads": (
        lambda: [v.numpy() for v in X.to(torch.device("cpu"))],
        1,
    ),
    "cpu, then many reads": (lambda: [float(v) for v in X.cpu()], 1),
    "nonzero": (lambda: torch.nonzero(MASK), 1),
    "where": (lambda: torch.where(MASK), 1),
    "mask": (lambda: X[MASK], 1),
    "two masks": (lambda: (X[MASK], X[MASK]), 2),
    "assignment of values by a mask": (lambda: X.clone().__setitem__(MASK, X[:2]), 1),
    "masked_select": (lambda: X.masked_select(MASK), 1),
    "unique": (lambda: X.unique(), 1),
    "repeats in a tensor": (lambda: X.repeat_interleave(MASK.long()), 1),
    "nms": (lambda: torchvision.ops.nms(BOXES, X, 0.5), 1),
    "numbers to the device": (lambda: torch.tensor([1.0], device=X.device), 1),
    "numbers like a tensor": (lambda: X.new_tensor([1.0, 2.0]), 1),
    "host to device": (lambda: torch.tensor([1.0, 2.0]).to(X.device), 1),
    "array to device": (lambda: torch.from_numpy(np.zeros(2)).to(X), 1),
    "host into device": (lambda: X.clone().copy_(torch.zeros(3)), 1),
    "device into host": (lambda: torch.zeros(3).copy_(X), 1),
    "indices of the host": (lambda: X[torch.tensor([0, 2])], 1),
    "list of indices": (lambda: X[[0, 2]], 1),
}

# What does not.
FREE: dict[str, Callable[[], object]] = {
    "arithmetic": lambda: (X * 2 + 1).sum().sqrt(),
    "sort and topk": lambda: (X.sort(), X.topk(2), X.argsort()),
    "gather": lambda: X.gather(0, X.argsort()),
    "where of three": lambda: torch.where(MASK, X, 0.0),
    "number by a mask": lambda: X.clone().__setitem__(MASK, 0.0),
    "zeros": lambda: torch.zeros(3, device=X.device) + X.new_zeros(3),
    "same device": lambda: X.to(X.device).to(torch.float64).to(X),
    "shape": lambda: [0] * len(X),
    "repeats of known size": lambda: X.repeat_interleave(MASK.long(), output_size=2),
    "host alone": lambda: torch.tensor([1.0, 2.0]).sum().item() + float(torch.zeros(2)[0]),
    "host by a mask": lambda: torch.arange(4)[torch.arange(4) > 1].tolist(),
    "copy that does not wait": lambda: torch.ones(2).to(X.device, non_blocking=True),
    "number of the host in between": lambda: X * torch.tensor(2.0),
    "indices of the device": lambda: X[X.argsort()],
}


@pytest.mark.parametrize("name", WAITING)
def test_waits_are_counted(name: str) -> None:
    run, count = WAITING[name]
    assert count_host_syncs(run).total == count, count_host_syncs(run)


@pytest.mark.parametrize("name", FREE)
def test_other_work_is_not(name: str) -> None:
    syncs = count_host_syncs(FREE[name])
    assert not syncs.places, syncs


def test_backward_passes_are_counted() -> None:
    class Curious(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, grad: Tensor) -> Tensor:
            return grad * float(grad[0])

    x = X.clone().requires_grad_()
    syncs = count_host_syncs(lambda: Curious.apply(x).sum().backward())
    assert syncs.by_operator == {"aten::_local_scalar_dense": 1}
    assert "test_host_syncs.py" in syncs.places[0].place


def test_places_name_the_innermost_code_outside_of_pytorch() -> None:
    def read_it() -> None:
        for _ in range(3):
            X.sum().item()

    (sync,) = count_host_syncs(read_it).places
    assert sync.count == 3
    assert sync.operator == "aten::_local_scalar_dense"
    assert sync.place.startswith("tests/analysis/test_host_syncs.py:")
    assert sync.place.endswith(" read_it")
    assert str(count_host_syncs(read_it)).startswith("3 waits for the device\n")


def test_a_batch_lies_on_the_host_until_it_is_moved() -> None:
    batch = [{"image": torch.zeros(3, 4, 4), "instances": Instances((4, 4))}]
    batch[0]["instances"].gt_boxes = Boxes(torch.ones(2, 4))

    def step() -> None:
        assert batch[0]["image"].sum().item() == 0
        batch[0]["image"].to(X.device)
        batch[0]["instances"].to(X.device).gt_boxes.tensor.sum().item()

    assert count_host_syncs(step, host=batch).by_operator == {
        "copy to device": 2,
        "aten::_local_scalar_dense": 1,
    }


def test_results_are_what_they_are_without_the_count() -> None:
    found = []
    host = X.cpu()
    count_host_syncs(lambda: found.append(X.cpu()))
    assert torch.equal(found[0], host)
    assert found[0].untyped_storage().data_ptr() != X.untyped_storage().data_ptr()


def test_waits_that_cuda_reports_are_collected_with_their_places() -> None:
    def work() -> None:
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation (...)", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    syncs = host_syncs._collect_warnings(work)
    assert syncs.total == 2
    assert syncs.places[0].place.endswith(" work")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what to do without CUDA")
def test_the_judge_needs_cuda() -> None:
    with pytest.raises(RuntimeError, match="count_host_syncs counts on the CPU"):
        observe_host_syncs(lambda: None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares the model with CUDA")
@pytest.mark.parametrize("name", [name for name in WAITING if name != "numpy"])
def test_cuda_reports_what_the_model_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for tensor in ("X", "MASK", "BOXES"):
        monkeypatch.setitem(globals(), tensor, globals()[tensor].cuda())
    run, count = WAITING[name]
    run()
    assert observe_host_syncs(run).total == count
