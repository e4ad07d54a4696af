# SPDX-License-Identifier: Apache-2.0
"""From arguments to a plan: how long cells are, and where they run."""

from __future__ import annotations

import pytest
import torch

from vitdet_d2.engine import tune_plan
from vitdet_d2.engine.tune_arguments import parse_tune
from vitdet_d2.engine.tune_plan import TunePlan, make_plan
from vitdet_d2.errors import RecipeError


def plan(*argv: str) -> TunePlan:
    return make_plan(parse_tune(argv))


@pytest.mark.parametrize(
    ("argv", "length"),
    [
        (("benchmark_vit_b_mae",), ("train.epochs=25",)),
        (("benchmark_vit_b_random",), ("train.epochs=100",)),
        (("benchmark_vit_b_mae", "train.init_checkpoint=''"), ("train.epochs=100",)),
        (("benchmark_vit_b_mae", "--epochs", "12.5"), ("train.epochs=12.5",)),
        (("benchmark_vit_b_mae", "--iterations", "9"), ("train.max_iter=9",)),
        (("benchmark_vit_b_mae", "train.epochs=50"), ()),
        (("vitdet_b", "--epochs", "12"), ("train.epochs=12",)),
    ],
)
def test_length_of_cells(argv: tuple[str, ...], length: tuple[str, ...]) -> None:
    assert plan(*argv).runner.length == length


def test_recipes_in_iterations_need_a_length() -> None:
    with pytest.raises(RecipeError, match=r"vitdet_b trains for 184375 iterations; .*--epochs N"):
        plan("vitdet_b")


def test_a_metric_that_no_cell_will_have_is_refused() -> None:
    for metric in ("segm/AP50", "bbox/AP-a cat"):  # classes are known when data are read
        assert plan("benchmark_vit_b_mae", "--metric", metric).runner.metric == metric
    with pytest.raises(RecipeError, match=r"--metric: there is no metric 'bbox/ap'; .* segm/AP,"):
        plan("benchmark_vit_b_mae", "--metric", "bbox/ap")
    with pytest.raises(RecipeError, match=r"--metric=bbox/AP: .* no dataloader\.evaluator.* one$"):
        plan("benchmark_vit_b_mae", "~dataloader.evaluator")


def machine(monkeypatch: pytest.MonkeyPatch, gpus: int, visible: str | None = None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(
        tune_plan.os, "environ", {"CUDA_VISIBLE_DEVICES": visible} if visible else {}
    )


@pytest.mark.parametrize(
    ("gpus", "visible", "argv", "devices"),
    [
        (4, None, (), (("0",), ("1",), ("2",), ("3",))),
        (4, None, ("--parallel", "2"), (("0",), ("1",))),
        (4, None, ("--num-gpus", "2"), (("0", "1"), ("2", "3"))),
        (3, None, ("--num-gpus", "2"), (("0", "1"),)),
        (2, "5,7", (), (("5",), ("7",))),
        (4, None, ("--num-gpus", "0"), ()),
        (0, None, (), ()),
    ],
)
def test_cells_are_spread_over_gpus(
    monkeypatch: pytest.MonkeyPatch,
    gpus: int,
    visible: str | None,
    argv: tuple[str, ...],
    devices: tuple[tuple[str, ...], ...],
) -> None:
    machine(monkeypatch, gpus, visible)
    slots = plan("quickstart", "--iterations", "9", *argv).runner.slots
    assert slots.devices == devices
    assert slots.count == (len(devices) or 1)


@pytest.mark.parametrize(
    ("gpus", "argv", "message"),
    [
        (2, ("--parallel", "3"), "3 cells at once with 1 GPUs each need 3, but this machine has 2"),
        (2, ("--num-gpus", "4"), "1 cells at once with 4 GPUs each need 4, but this machine has 2"),
        (0, ("--num-gpus", "1"), "need 1, but this machine has 0"),
    ],
)
def test_too_few_gpus_are_told(
    monkeypatch: pytest.MonkeyPatch, gpus: int, argv: tuple[str, ...], message: str
) -> None:
    machine(monkeypatch, gpus)
    with pytest.raises(RecipeError, match=message):
        plan("quickstart", "--iterations", "9", *argv)
