# SPDX-License-Identifier: Apache-2.0
"""What is remembered of an evaluation until a run is resumed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from detectron2.utils.events import EventStorage

from vitdet_d2.engine.hooks.evaluation import EvaluationHook

RESULTS = {"bbox": {"AP": 3.0, "APl": math.nan}}


def hook_of(record: Path, seen: list[Any], *, start: int, evaluate: Any) -> EvaluationHook:
    """Of a run of 8 iterations with an evaluation every 4."""
    hook = EvaluationHook(4, evaluate, record=record, consider=lambda *told: seen.append(told))
    storage = EventStorage(start)
    hook.trainer = SimpleNamespace(  # type: ignore[assignment]
        iter=start, start_iter=start, max_iter=8, storage=storage
    )
    return hook


def test_metric_without_ground_truth_is_known_after_a_resume(tmp_path: Path) -> None:
    record, seen = tmp_path / "inference" / "latest.json", list[Any]()
    first = hook_of(record, seen, start=3, evaluate=lambda: RESULTS)
    first.after_step()
    content = json.loads(record.read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    assert content == {"iteration": 3, "metrics": {"bbox/AP": 3.0}, "undefined": ["bbox/APl"]}

    def again() -> Any:
        pytest.fail("evaluated twice")

    resumed = hook_of(record, seen, start=4, evaluate=again)
    resumed.before_train()
    for numbers, iteration in seen:
        assert iteration == 3
        assert numbers["bbox/AP"] == 3.0
        assert math.isnan(numbers["bbox/APl"])
    assert len(seen) == 2
    for hook in (first, resumed):
        assert list(hook.trainer.storage.histories()) == ["bbox/AP"]


def test_record_of_another_iteration_does_not_count(tmp_path: Path) -> None:
    record, seen = tmp_path / "latest.json", list[Any]()
    record.write_text(json.dumps({"iteration": 2, "metrics": {"bbox/AP": 9.0}, "undefined": []}))
    hook_of(record, seen, start=4, evaluate=lambda: RESULTS).before_train()
    assert [(numbers["bbox/AP"], iteration) for numbers, iteration in seen] == [(3.0, 3)]
