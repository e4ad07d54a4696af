# SPDX-License-Identifier: Apache-2.0
"""The command line of training and evaluation."""

from __future__ import annotations

import pytest

from vitdet_d2.engine.arguments import parse_eval, parse_train
from vitdet_d2.errors import RecipeError


def test_defaults() -> None:
    arguments = parse_train(["--config-file", "vitdet_b"])
    assert arguments.config_file == "vitdet_b"
    assert arguments.num_gpus is None
    assert (arguments.num_machines, arguments.machine_rank, arguments.dist_url) == (1, 0, None)
    assert (arguments.resume, arguments.overwrite, arguments.eval_only) == ("never", False, False)
    assert arguments.overrides == ()


@pytest.mark.parametrize(
    ("argv", "resume", "overrides"),
    [
        (["--resume", "train.max_iter=5"], "required", ("train.max_iter=5",)),
        (["--resume"], "required", ()),
        (["--resume=auto", "a=1"], "auto", ("a=1",)),
        (["--resume", "auto", "a=1"], "auto", ("a=1",)),
        (["a=1", "--resume", "~b", "+c=-1"], "required", ("a=1", "~b", "+c=-1")),
    ],
)
def test_resume_does_not_swallow_overrides(
    argv: list[str], resume: str, overrides: tuple[str, ...]
) -> None:
    arguments = parse_train(["--config-file", "x", *argv])
    assert arguments.resume == resume
    assert arguments.overrides == overrides


BAD = {
    "": "required: --config-file",
    "--config-file x --num-gpus -1": "at least 0, got '-1'",
    "--config-file x --num-gpus two": "got 'two'",
    "--config-file x --resume --overwrite": "--resume continues a run and --overwrite starts one",
    "--config-file x --resume=auto --auto-increment": "and --auto-increment starts one",
    "--config-file x --overwrite --auto-increment": "exclude each other",
    "--config-file x --eval-only --resume": "--eval-only evaluates train.init_checkpoint",
    "--config-file x --resume=later": "invalid choice: 'later'",
    "--config-file x --config y": "unrecognized arguments: --config",
}


@pytest.mark.parametrize("line", BAD)
def test_wrong_usage_is_a_recipe_error(line: str) -> None:
    with pytest.raises(RecipeError, match=BAD[line]):
        parse_train(line.split())


def test_eval_takes_weights() -> None:
    arguments = parse_eval(["--config-file", "x", "--weights", "w.pth", "a=1", "--num-gpus", "0"])
    assert arguments.eval_only
    assert arguments.weights == "w.pth"
    assert (arguments.num_gpus, arguments.overrides) == (0, ("a=1",))
    with pytest.raises(RecipeError, match="unrecognized arguments: --resume; see `vitdet eval"):
        parse_eval(["--config-file", "x", "--resume"])
