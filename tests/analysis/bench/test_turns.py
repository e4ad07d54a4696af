# SPDX-License-Identifier: Apache-2.0
"""Whole cases, with all sides in this process: order of turns, gate, and what failures leave."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from tests.analysis.bench.sides import tiny
from vitdet_d2 import runtime
from vitdet_d2.analysis.bench import inference, turns
from vitdet_d2.analysis.bench.case import Case
from vitdet_d2.analysis.bench.turns import Plan, SideError, environment, measure, started

PLAN = Plan(rounds=2)


def test_sides_take_turns(local_sides):
    outcome = measure(tiny("backbone", precision="bf16"), PLAN)
    assert outcome.failures == []
    assert [side for side, do in local_sides if do == "turn"] == ["ours", "shipped", "tuned"] * 2
    # Nothing is timed before the results were compared.
    assert [do for side, do in local_sides if side == "ours"] == [
        "share", "prepare", "evidence", "turn", "turn", "count",
    ]  # fmt: skip
    assert outcome.verdict is not None
    assert set(outcome.verdict.worst) == {"output", "rounded"}
    for side in outcome.sides.values():
        assert len(side.wall) == len(side.cpu) == 2
        assert side.seconds is not None
    assert outcome.ratio("shipped") is not None
    assert json.loads(json.dumps(outcome.describe()))["ratio_tuned"] == outcome.ratio("tuned")


def test_training_compares_losses_and_every_gradient(local_sides):
    outcome = measure(tiny("training", batch=2), Plan(rounds=1))
    assert outcome.failures == []
    assert outcome.verdict is not None
    worst = outcome.verdict.worst
    assert worst["loss"].entries == 5
    assert worst["gradient"].entries > 60
    assert outcome.sides["ours"].units == 2


def test_inference_detects_something(local_sides):
    outcome = measure(tiny("inference"), Plan(rounds=1))
    assert outcome.failures == []
    assert list(outcome.sides) == ["ours", "shipped"]
    assert outcome.sides["ours"].counts["detections"] > 5


def test_host_syncs_are_counted(local_sides):
    outcome = measure(tiny("syncs"), Plan(rounds=1))
    assert outcome.failures == []
    assert outcome.sides["ours"].counts["host_syncs"] >= 1


@pytest.mark.parametrize("axis", ["loader", "masks", "evaluation"])
def test_axes_without_a_model(local_sides, axis, monkeypatch):
    from vitdet_d2.analysis.bench import evaluation

    monkeypatch.setattr(evaluation, "_NUM_IMAGES", 2)
    outcome = measure(tiny(axis), Plan(rounds=1))
    assert outcome.failures == []
    assert list(outcome.sides) == ["ours", "shipped"]
    assert outcome.verdict is not None
    assert outcome.verdict.worst["exact"].entries >= 1


def test_ratio_of_different_results_is_void(local_sides, monkeypatch):
    parts = inference._parts

    def wrong(model, images):
        found = parts(model, images)
        return {**found, "p2": found["p2"] + torch.rand_like(found["p2"])}

    monkeypatch.setattr(inference, "_parts", wrong)
    outcome = measure(tiny("inference"), Plan(rounds=1))
    assert outcome.ratio("shipped") is None
    assert outcome.memory_share("shipped") is None
    assert any("gate: output p2" in text for text in outcome.failures)


def test_side_that_fails_leaves_ours(local_sides, failing_shipped):
    outcome = measure(tiny("backbone"), PLAN)
    assert outcome.sides["ours"].seconds is not None
    assert outcome.sides["shipped"].error == "RuntimeError: no luck"
    assert outcome.ratio("shipped") is None


def test_recipe_that_fails_says_why(local_sides):
    outcome = measure(tiny("backbone", model="no_such_recipe"), PLAN)
    assert "no_such_recipe" in (outcome.sides["ours"].error or "")


def test_environment_of_sides(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    plan = Plan(threads=2, detectron2=tmp_path)
    ours, theirs = environment("ours", plan), environment("shipped", plan)
    assert (ours[runtime.VARIABLE], theirs[runtime.VARIABLE]) == ("bundled", "installed")
    assert ours["OMP_NUM_THREADS"] == theirs["OMP_NUM_THREADS"] == "2"
    assert ours["PYTHONPATH"] == "elsewhere"
    assert theirs["PYTHONPATH"].startswith(str(tmp_path))


def test_process_that_ends_says_its_last_words(tmp_path: Path, monkeypatch):
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\nimport sys; print('no luck', file=sys.stderr)\n")
    script.chmod(0o755)
    monkeypatch.setattr(turns.sys, "executable", str(script))
    with started(("ours",), Plan(), tmp_path) as processes:
        with pytest.raises(SideError, match="no luck"):
            processes["ours"].ask("hello")


def test_case_survives_json():
    case = tiny("training", own_overrides=("train.compile=true",))
    assert Case.from_json(case.to_json()) == case
