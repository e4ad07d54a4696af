# SPDX-License-Identifier: Apache-2.0
"""Order of hooks, state, and metrics of the bundled trainers, as Detectron2 02b5c4e has them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer, TrainerBase
from torch import nn


class Recorder(HookBase):
    def __init__(self, name: str, events: list[str]) -> None:
        self.name, self.events = name, events

    def before_train(self) -> None:
        self.events.append(f"{self.name}:before_train")

    def after_train(self) -> None:
        self.events.append(f"{self.name}:after_train@{self.trainer.iter}")

    def before_step(self) -> None:
        self.events.append(f"{self.name}:before_step@{self.trainer.storage.iter}")

    def after_step(self) -> None:
        self.events.append(f"{self.name}:after_step")


class Steps(TrainerBase):
    fail_at = -1

    def run_step(self) -> None:
        if self.iter == self.fail_at:
            raise RuntimeError("broken step")


def test_hooks_run_in_order() -> None:
    events: list[str] = []
    trainer = Steps()
    trainer.register_hooks([Recorder("a", events), None, Recorder("b", events)])
    trainer.train(5, 6)
    assert events == [
        "a:before_train",
        "b:before_train",
        "a:before_step@5",
        "b:before_step@5",
        "a:after_step",
        "b:after_step",
        "a:after_train@6",
        "b:after_train@6",
    ]


def test_after_train_follows_a_failure_at_its_iteration() -> None:
    events: list[str] = []
    trainer = Steps()
    trainer.fail_at = 1
    trainer.register_hooks([Recorder("a", events)])
    with pytest.raises(RuntimeError, match="broken step"):
        trainer.train(0, 3)
    assert events[-1] == "a:after_train@1"


def test_hooks_must_be_hooks() -> None:
    with pytest.raises(TypeError, match="HookBase objects, got str"):
        Steps().register_hooks(["hook"])  # type: ignore[list-item]


class Stateful(HookBase):
    value = 0

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


def test_state_of_hooks_by_class_name(caplog: pytest.LogCaptureFixture) -> None:
    first, second = Steps(), Steps()
    hook, restored = Stateful(), Stateful()
    hook.value = 3
    first.iter = 7
    first.register_hooks([hook, HookBase()])
    state = first.state_dict()
    assert state == {"iteration": 7, "hooks": {"Stateful": {"value": 3}}}
    second.register_hooks([restored])
    second.load_state_dict({**state, "hooks": {**state["hooks"], "Gone": {}}})
    assert (second.iter, restored.value) == (7, 3)
    assert "No hook 'Gone'" in caplog.text


class Line(nn.Module):
    """Losses 2w and w for the batch x = 1, 2, 3, ... of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: float) -> dict[str, torch.Tensor]:
        return {"loss_a": 2 * self.w * x, "loss_b": self.w * x}


@pytest.mark.parametrize("kind", [SimpleTrainer, AMPTrainer])
@pytest.mark.parametrize("zero_first", [False, True])
def test_steps_by_hand(kind: type[SimpleTrainer], zero_first: bool) -> None:
    """d(loss)/dw = 3x, so w goes 1, 1 - 0.3, 0.7 - 0.6; the losses are 3wx before each step."""
    model = Line()
    trainer = kind(
        model,
        itertools.count(1),
        torch.optim.SGD(model.parameters(), lr=0.1),
        zero_grad_before_forward=zero_first,
    )
    trainer.train(0, 2)
    assert model.w.item() == pytest.approx(0.1, abs=1e-6)
    history = {k: [v for v, _ in h.values()] for k, h in trainer.storage.histories().items()}
    assert history["total_loss"] == pytest.approx([3.0, 3 * 0.7 * 2])
    assert history["loss_a"] == pytest.approx([2.0, 2 * 0.7 * 2])
    assert set(history) == {"total_loss", "loss_a", "loss_b", "data_time", "rank_data_time"}


def test_metrics_in_a_thread_and_by_period() -> None:
    model = Line()
    trainer = SimpleTrainer(
        model,
        itertools.count(1),
        torch.optim.SGD(model.parameters(), lr=0.0),
        gather_metric_period=2,
    )
    trainer.train(0, 4)
    assert [i for _, i in trainer.storage.history("total_loss").values()] == [1, 3]


def test_infinite_loss_raises() -> None:
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = SimpleTrainer(model, iter([1.0, float("inf")]), optimizer)
    with pytest.raises(FloatingPointError, match="not finite at iteration 1"):
        trainer.train(0, 3)


def test_amp_computes_in_the_given_precision_on_the_cpu() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(2, 2))
            self.seen: torch.dtype | None = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x @ self.w
            self.seen = y.dtype
            return y.sum()

    model = Product()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    trainer = AMPTrainer(model, itertools.repeat(torch.eye(2)), optimizer, precision=torch.bfloat16)
    trainer.train(0, 1)
    assert model.seen == torch.bfloat16
    assert torch.equal(model.w.detach(), torch.full((2, 2), 0.5))
    state = trainer.state_dict()
    assert {"iteration", "optimizer", "grad_scaler"} <= state.keys()
    trainer.load_state_dict(state)


def test_loader_is_started_once_and_can_be_replaced() -> None:
    model = Line()
    trainer = SimpleTrainer(model, [1.0, 2.0], torch.optim.SGD(model.parameters(), lr=0.0))
    trainer.train(0, 2)
    with pytest.raises(StopIteration):
        next(trainer._data_loader_iter)
    trainer.reset_data_loader(lambda: [5.0])
    assert next(trainer._data_loader_iter) == 5.0
