# SPDX-License-Identifier: Apache-2.0
"""An evaluator in a thread: everything arrives, in order, and so do errors."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from detectron2.evaluation import DatasetEvaluator

from vitdet_d2.evaluation.background import BackgroundEvaluator


class _Collector(DatasetEvaluator):
    def __init__(self, go: threading.Event, bad: int | None = None) -> None:
        self.seen: list[Any] = []
        self._go, self._bad = go, bad

    def reset(self) -> None:
        self.seen = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        assert self._go.wait(10)
        if inputs[0]["image_id"] == self._bad:
            raise ValueError("image 3 is bad")
        self.seen += list(zip(inputs, outputs, strict=True))

    def evaluate(self) -> dict[str, Any]:
        return {"seen": [given["image_id"] for given, _ in self.seen]}


def _feed(evaluator: DatasetEvaluator, count: int) -> None:
    for number in range(count):
        evaluator.process([{"image_id": number, "image": "large"}], [{"instances": number}])


def test_batches_arrive_in_order_while_the_caller_goes_on():
    go = threading.Event()
    inner = _Collector(go)
    evaluator = BackgroundEvaluator(inner)
    evaluator.reset()
    _feed(evaluator, 9)  # comes back although nothing is taken yet
    assert not inner.seen
    go.set()
    assert evaluator.evaluate() == {"seen": list(range(9))}
    assert all("image" not in given for given, _ in inner.seen)
    evaluator.reset()
    assert evaluator.evaluate() == {"seen": []}
    evaluator.close()


def test_an_error_is_raised_where_the_evaluation_waits():
    go = threading.Event()
    go.set()
    evaluator = BackgroundEvaluator(_Collector(go, bad=3))
    evaluator.reset()
    with pytest.raises(ValueError, match="image 3 is bad"):  # noqa: PT012  (whichever call is next)
        _feed(evaluator, 6)
        evaluator.evaluate()
    evaluator.close()


def test_closing_ends_the_thread_with_batches_left():
    go = threading.Event()
    before = threading.active_count()
    evaluator = BackgroundEvaluator(_Collector(go))
    _feed(evaluator, 12)
    threading.Timer(0.05, go.set).start()
    evaluator.close()
    assert threading.active_count() <= before + 1  # the timer's, which may still end
