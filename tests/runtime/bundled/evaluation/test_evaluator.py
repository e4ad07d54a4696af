# SPDX-License-Identifier: Apache-2.0
"""The inference loop: modes, callbacks, log lines, merging of evaluators."""

from __future__ import annotations

import logging
import re

import pytest
import torch
from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    evaluator,
    inference_context,
    inference_on_dataset,
)
from torch import nn


class _Recorder(DatasetEvaluator):
    """Sums outputs under a key, and remembers what it was called with."""

    def __init__(self, key: str = "sum") -> None:
        self.key = key
        self.seen: list[tuple[int, int]] = [(-1, -1)]

    def reset(self) -> None:
        self.seen = []

    def process(self, inputs, outputs) -> None:
        self.seen.append((int(inputs), int(outputs)))

    def evaluate(self):
        return {self.key: sum(output for _, output in self.seen)}


class _Doubler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.frozen = nn.Dropout()
        self.frozen.eval()
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, x):
        self.modes.append((self.training, torch.is_grad_enabled()))
        if x == 13:
            raise RuntimeError("unlucky batch")
        return self.weight * x


def test_outputs_reach_the_evaluator_in_order():
    recorder, model = _Recorder(), _Doubler()
    assert inference_on_dataset(model, [1, 2, 3], recorder) == {"sum": 12}
    assert recorder.seen == [(1, 2), (2, 4), (3, 6)]
    assert model.modes == [(False, False)] * 3


@pytest.mark.parametrize("fails", [False, True])
def test_every_module_gets_its_own_mode_back(fails):
    model = _Doubler().train()
    model.frozen.eval()
    if fails:
        with pytest.raises(RuntimeError, match="unlucky batch"):
            inference_on_dataset(model, [13], None)
    else:
        inference_on_dataset(model, [1], None)
    assert model.training
    assert not model.frozen.training
    assert torch.is_grad_enabled()


def test_context_keeps_a_model_that_was_in_eval_mode():
    model = _Doubler().eval()
    with inference_context(model):
        assert not model.training
    assert not model.training


def test_context_calls_overridden_modes():
    class Stubborn(_Doubler):
        def eval(self):
            return self

    model = Stubborn().train()
    with inference_context(model):
        assert model.training, "a wrapper that overrides eval() evaluates in training mode"


def test_callbacks_run_in_order_and_plain_callables_work():
    calls: list[str] = []
    names = ("on_start", "before_inference", "after_inference", "on_end")
    callbacks = {name: (lambda name=name: calls.append(name)) for name in names}

    def model(x):
        calls.append("model")
        return x

    inference_on_dataset(model, [1, 2], None, callbacks=callbacks)
    step = ["before_inference", "model", "after_inference"]
    assert calls == ["on_start", *step, *step, "on_end"]


def test_log_lines_are_those_that_parsers_look_for(caplog, monkeypatch):
    # Without the limit on how often a line is logged, which depends on earlier tests.
    monkeypatch.setattr(
        evaluator, "log_every_n_seconds", lambda level, message, n: logging.log(level, message)
    )
    with caplog.at_level(logging.INFO):
        inference_on_dataset(_Doubler(), list(range(12)), None)
    text = caplog.text
    assert "Start inference on 12 batches" in text
    expected = (
        r"Inference done 11/12\. Dataloading: \d+\.\d{4} s/iter\. Inference: \d+\.\d{4} s/iter\. "
        r"Eval: \d+\.\d{4} s/iter\. Total: \d+\.\d{4} s/iter\. ETA=0:00:00"
    )
    lines = "\n".join(record.message for record in caplog.records)
    assert re.search(expected, lines)
    number = r"\(\d+\.\d{6} s / iter per device, on 1 devices\)"
    for name in ("time", "pure compute time"):
        pattern = rf"Total inference {name}: [\d:.]+ {number}"
        assert re.search(pattern, lines), name


@pytest.mark.parametrize("batches", [[], [4]])
def test_loaders_shorter_than_the_warm_up(batches):
    assert inference_on_dataset(_Doubler(), batches, _Recorder()) == {"sum": 2 * sum(batches)}


def test_warm_up_is_not_timed(caplog, monkeypatch):
    """By a clock that only the model moves: five slow iterations, then seven of 0.25 s."""
    now = [100.0]
    monkeypatch.setattr("detectron2.evaluation.evaluator.time.perf_counter", lambda: now[0])

    class SlowStart(_Doubler):
        def forward(self, x):
            now[0] += 50.0 if x < 5 else 0.25
            return super().forward(x)

    with caplog.at_level(logging.INFO):
        inference_on_dataset(SlowStart(), list(range(12)), None)
    lines = [r.message for r in caplog.records if r.message.startswith("Total inference")]
    assert len(lines) == 2
    assert all("(0.250000 s / iter per device" in line for line in lines)


def test_several_evaluators_are_merged():
    both = [_Recorder("a"), _Recorder("b")]
    assert inference_on_dataset(_Doubler(), [1, 2], both) == {"a": 6, "b": 6}


def test_evaluators_with_the_same_key_are_refused():
    with pytest.raises(ValueError, match=r"_Recorder reports \['sum'\]"):
        DatasetEvaluators([_Recorder(), _Recorder()]).evaluate()


def test_an_evaluator_without_results_gives_an_empty_dictionary():
    assert inference_on_dataset(_Doubler(), [1], DatasetEvaluator()) == {}
