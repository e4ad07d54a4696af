# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from vitdet_d2.engine.tune_arguments import parse_tune
from vitdet_d2.errors import RecipeError


def test_lists_are_sorted_numbers() -> None:
    parsed = parse_tune(["r", "--lr", "1e-3,5e-4", "--weight-decay", "0.1", "--drop-path", "0.2,0"])
    assert parsed.lr == (5e-4, 1e-3)
    assert parsed.weight_decay == (0.1,)
    assert parsed.drop_path == (0.0, 0.2)


def test_overrides_stand_anywhere_behind_the_recipe() -> None:
    parsed = parse_tune(["r", "a.b=1", "--output", "o", "+c=2", "~d", "--json"])
    assert (parsed.recipe, parsed.overrides) == ("r", ("a.b=1", "+c=2", "~d"))
    assert parsed.output == Path("o")
    assert parsed.json


def test_another_study_means_stage_3() -> None:
    assert parse_tune(["r", "--from", "b"]).stage == "3"
    assert parse_tune(["r"]).stage == "all"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: RECIPE"),
        (["a=1", "b=2"], "which recipe"),
        (["r", "--lr", "1e-4,fast"], "--lr: must be numbers of at least 0.*'fast'"),
        (["r", "--lr", "1e-4,nan"], "--lr: must be numbers.*'nan'"),
        (["r", "--lr", "inf"], "--lr: must be numbers.*'inf'"),
        (["r", "--lr", ""], "--lr: must be numbers"),
        (["r", "--lr=-1e-4"], "--lr: must be numbers.*'-1e-4'"),
        (["r", "--lr", "0,1e-4"], "--lr: learning rates must be above 0"),
        (["r", "--lr", "1e-4,2e-4,0.0001"], "--lr: has 0.0001 twice"),
        (["r", "--weight-decay=-0.1"], "--weight-decay: must be numbers"),
        (["r", "--drop-path", "0,1"], "--drop-path: rates must be below 1, got 1"),
        (["r", "--lr", "1e-4", "--lr-centre", "1e-4"], "--lr and --lr-centre exclude"),
        (["r", "--lr-centre", "0"], "--lr-centre: must be a number above 0"),
        (["r", "--epochs", "25", "--iterations", "9"], "--epochs and --iterations exclude"),
        (["r", "--iterations", "0"], "--iterations: must be a whole number of at least 1"),
        (["r", "--parallel", "two"], "--parallel: must be a whole number"),
        (["r", "--stage", "4"], "--stage: invalid choice"),
        (["r", "--stage", "3"], "stage 3 takes the pair of another study: give --from"),
        (["r", "--stage", "1", "--from", "b"], "not --stage 1 --from b"),
        (["r", "--from", "b", "--lr", "1e-4"], "--lr is of stage 1; stage 3"),
        (["r", "--from-name", "b"], "--from-name names a study of --from"),
        (["r", "--report", "--retry-failed"], "--report and --retry-failed exclude"),
        (["r", "--grace", "0"], "--grace: must be a number of seconds above 0"),
    ],
)
def test_mistakes_are_named(argv: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_tune(argv)
