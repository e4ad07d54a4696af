# SPDX-License-Identifier: Apache-2.0
"""Arguments, set-up, writers and launch of the bundled engine."""

from __future__ import annotations

import argparse
from pathlib import Path

import detectron2.engine
import pytest
import torch
from detectron2.engine import (
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
    launch,
)
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf
from torch import nn


def test_arguments() -> None:
    parse = default_argument_parser().parse_args
    given = parse(["--config-file", "a.py", "--num-gpus", "8", "--resume", "x.y=1", "z=2"])
    assert (given.config_file, given.num_gpus, given.resume) == ("a.py", 8, True)
    assert given.opts == ["x.y=1", "z=2"]
    default = parse([])
    assert (default.num_gpus, default.num_machines, default.machine_rank) == (1, 1, 0)
    assert not default.eval_only
    assert default.dist_url == parse([]).dist_url
    assert 49152 <= int(default.dist_url.rpartition(":")[2]) < 65536


def test_setup_saves_the_recipe_and_seeds(tmp_path: Path) -> None:
    cfg = OmegaConf.create({"train": {"output_dir": str(tmp_path / "run"), "seed": 5}})
    args = argparse.Namespace(config_file="", eval_only=False)
    default_setup(cfg, args)
    first = torch.rand(())
    default_setup(cfg, args)
    assert torch.equal(first, torch.rand(()))
    assert (tmp_path / "run" / "config.yaml").is_file()
    with pytest.raises(TypeError, match="expected a LazyConfig recipe or a yacs CfgNode, got dict"):
        default_setup({}, args)  # type: ignore[arg-type]


def test_writers_share_the_folder(tmp_path: Path) -> None:
    writers = default_writers(str(tmp_path / "out"), max_iter=2)
    assert [type(w).__name__ for w in writers] == [
        "CommonMetricPrinter",
        "JSONWriter",
        "TensorboardXWriter",
    ]
    with EventStorage() as storage:
        storage.put_scalar("total_loss", 1.5)
        for writer in writers:
            writer.write()
            writer.close()
    assert "total_loss" in (tmp_path / "out" / "metrics.json").read_text()


def test_one_process_needs_no_wrapper() -> None:
    model = nn.Linear(1, 1)
    assert create_ddp_model(model, broadcast_buffers=False) is model


def test_launch_of_one_process_is_a_call() -> None:
    called: list[int] = []
    launch(called.append, 1, args=(4,))
    assert called == [4]
    with pytest.raises(ValueError, match="expected tcp://HOST:PORT of machine 0 for 2 machines"):
        launch(called.append, 1, num_machines=2, dist_url="auto", args=(4,))


def test_what_is_not_bundled_says_so() -> None:
    with pytest.raises(AttributeError, match=r"PreciseBN is not part of the Detectron2"):
        _ = detectron2.engine.PreciseBN
