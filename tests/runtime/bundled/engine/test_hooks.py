# SPDX-License-Identifier: Apache-2.0
"""When the bundled hooks act, and what they leave in the storage."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.engine import TrainerBase, hooks
from detectron2.utils.events import EventWriter
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.param_scheduler import MultiStepParamScheduler
from torch import nn


class Loop(TrainerBase):
    """Steps that do nothing but put a metric; ``optimizer`` as hooks look for it."""

    def __init__(self) -> None:
        super().__init__()
        self.optimizer = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.5)
        self.values: dict[int, float] = {}

    def run_step(self) -> None:
        self.optimizer.step()
        if self.iter in self.values:
            self.storage.put_scalar("bbox/AP", self.values[self.iter], smoothing_hint=False)


def test_callbacks_get_the_trainer() -> None:
    seen: list[Any] = []
    trainer = Loop()
    hook = hooks.CallbackHook(
        before_train=lambda t: seen.append("start"),
        before_step=lambda t: seen.append(t.iter),
        after_train=lambda t: seen.append("end"),
    )
    trainer.register_hooks([hook])
    trainer.train(0, 2)
    assert seen == ["start", 0, 1, "end"]


def test_learning_rate_is_reported_before_it_changes() -> None:
    trainer = Loop()
    schedule = MultiStepParamScheduler([1.0, 0.1], milestones=[2], num_updates=4)
    trainer.register_hooks([hooks.LRScheduler(scheduler=schedule)])
    trainer.train(0, 4)
    rates = [v for v, _ in trainer.storage.history("lr").values()]
    assert rates == pytest.approx([0.5, 0.5, 0.05, 0.05])


def test_reported_group() -> None:
    def optimizer(*groups: tuple[int, float]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            [
                {"params": [nn.Parameter(torch.zeros(1)) for _ in range(n)], "lr": r}
                for n, r in groups
            ]
        )

    choose = hooks.LRScheduler.get_best_param_group_id
    assert choose(optimizer((1, 0.3), (4, 0.2), (4, 0.1))) == 1
    assert choose(optimizer((1, 0.3), (1, 0.2), (1, 0.2))) == 1


class Writer(EventWriter):
    def __init__(self) -> None:
        self.at: list[int] = []
        self.closed = 0

    def write(self) -> None:
        from detectron2.utils.events import get_event_storage

        self.at.append(get_event_storage().iter)

    def close(self) -> None:
        self.closed += 1


def test_writers_write_periodically_and_at_the_end() -> None:
    writer = Writer()
    trainer = Loop()
    trainer.register_hooks([hooks.PeriodicWriter([writer], period=3)])
    trainer.train(0, 7)
    assert writer.at == [2, 5, 6, 7]
    assert writer.closed == 1
    with pytest.raises(TypeError, match="EventWriters, got str"):
        hooks.PeriodicWriter(["log"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("period", "after", "expected"), [(2, True, [1, 3, 5]), (2, False, [1, 3]), (0, True, [5])]
)
def test_evaluation_times(period: int, after: bool, expected: list[int]) -> None:
    trainer = Loop()
    at: list[int] = []

    def evaluate() -> dict[str, Any]:
        at.append(min(trainer.iter, 5))
        return {"bbox": {"AP": 0.5}, "speed": 2}

    trainer.register_hooks([hooks.EvalHook(period, evaluate, after)])
    trainer.train(0, 6)
    assert at == expected
    assert trainer.storage.latest()["bbox/AP"][0] == 0.5
    assert trainer.storage.latest()["speed"][0] == 2


def test_evaluation_must_return_numbers() -> None:
    trainer = Loop()
    trainer.register_hooks([hooks.EvalHook(1, lambda: {"bbox": {"AP": "high"}})])
    with pytest.raises(ValueError, match="nested dict of numbers, got bbox/AP: 'high'"):
        trainer.train(0, 2)


class Saver(Checkpointer):
    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1), "", save_to_disk=False)
        self.saved: list[tuple[str, int]] = []

    def save(self, name: str, **kwargs: Any) -> None:
        self.saved.append((name, kwargs["iteration"]))


def test_checkpoint_times() -> None:
    saver, trainer = Saver(), Loop()
    trainer.register_hooks([hooks.PeriodicCheckpointer(saver, 2)])
    trainer.train(0, 5)
    assert saver.saved == [("model_0000001", 1), ("model_0000003", 3), ("model_final", 4)]


@pytest.mark.parametrize(("mode", "best"), [("max", [0, 2]), ("min", [0, 1])])
def test_best_checkpoint(mode: str, best: list[int]) -> None:
    saver, trainer = Saver(), Loop()
    trainer.values = {0: 30.0, 1: 20.0, 2: 40.0, 3: float("nan"), 4: 25.0}
    trainer.register_hooks([hooks.BestCheckpointer(1, saver, "bbox/AP", mode)])
    trainer.train(0, 5)
    assert saver.saved == [("model_best", i) for i in best]


def test_best_checkpoint_without_the_metric(caplog: pytest.LogCaptureFixture) -> None:
    saver, trainer = Saver(), Loop()
    trainer.register_hooks([hooks.BestCheckpointer(1, saver, "bbox/AP")])
    trainer.train(0, 1)
    assert saver.saved == []
    assert "No metric 'bbox/AP'" in caplog.text
    with pytest.raises(ValueError, match="expected 'max' or 'min', got 'best'"):
        hooks.BestCheckpointer(1, saver, "bbox/AP", "best")


def test_timer_leaves_the_first_iterations_out() -> None:
    trainer = Loop()
    trainer.register_hooks([hooks.IterationTimer(warmup_iter=3)])
    trainer.train(0, 6)
    assert [i for _, i in trainer.storage.history("time").values()] == [2, 3, 4, 5]
