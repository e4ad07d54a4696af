# SPDX-License-Identifier: Apache-2.0
"""Keys of ``train`` with their defaults; the files and the bar of a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import TrainerBase
from omegaconf import OmegaConf

from vitdet_d2.engine.build import (
    build_average,
    build_train_loader,
    require_batch,
    resolve_device,
)
from vitdet_d2.engine.metrics_file import trim_metrics, written_metrics
from vitdet_d2.engine.progress import ProgressBar
from vitdet_d2.engine.settings import read_settings
from vitdet_d2.errors import RecipeError


def test_missing_keys_have_detectron2_defaults() -> None:
    settings = read_settings(OmegaConf.create({"model": {}}))
    assert (settings.max_iter, settings.checkpoint_period, settings.eval_period) == (
        90000,
        5000,
        5000,
    )
    assert settings.amp_dtype is None
    assert settings.seed is None
    assert settings.max_to_keep is None


@pytest.mark.parametrize("name", [None, "", "random"])
def test_no_first_weights(name: str | None) -> None:
    cfg = OmegaConf.create({"train": {"init_checkpoint": name}})
    assert read_settings(cfg).init_checkpoint == ""


@pytest.mark.parametrize(
    ("amp", "dtype"),
    [
        ({"enabled": True}, torch.bfloat16),
        ({"enabled": True, "dtype": "fp16"}, torch.float16),
        ({"enabled": False, "dtype": "fp16"}, None),
    ],
)
def test_precision(amp: dict[str, Any], dtype: torch.dtype | None) -> None:
    assert read_settings(OmegaConf.create({"train": {"amp": amp}})).amp_dtype is dtype


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"max_iter": "many"}, r"train\.max_iter: expected a whole number, got 'many'"),
        ({"log_period": 0}, r"train\.log_period: expected at least 1, got 0"),
        ({"checkpointer": {"period": 2.5}}, r"train\.checkpointer\.period: expected a whole"),
        ({"amp": {"enabled": True, "dtype": "fp8"}}, r"train\.amp\.dtype: expected one of"),
        ({"ddp": 3}, r"train\.ddp: expected a mapping, got 3"),
    ],
)
def test_wrong_values_are_named(train: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_settings(OmegaConf.create({"train": train}))


def test_device() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(RecipeError, match="expected auto, cuda or cpu, got 'gpu'"):
        resolve_device("gpu")
    if not torch.cuda.is_available():
        assert resolve_device("auto") == torch.device("cpu")
        with pytest.raises(RecipeError, match="finds no CUDA device"):
            resolve_device("cuda")


def test_detectron2_loader_is_replaced_by_the_resumable_one() -> None:
    target = "detectron2.data.build.build_detection_train_loader"
    records = [{"file_name": str(i), "width": 4, "height": 3} for i in range(5)]
    node = {
        "_target_": target,
        "dataset": records,
        "mapper": None,
        "total_batch_size": 2,
        "num_workers": 0,
    }
    cfg = OmegaConf.create({"dataloader": {"train": node}})
    loader = build_train_loader(cfg, seed=11)
    assert loader.state() == {"seed": 11, "samples": 0}
    assert cfg.dataloader.train._target_ == target


def test_metrics_are_continued_without_repeats(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    trim_metrics(path, 3)
    assert not path.exists()
    lines = [json.dumps({"iteration": i, "total_loss": 0.5}) for i in range(5)]
    path.write_text("\n".join([*lines, '{"iteration": 2, "total_lo']))
    trim_metrics(path, 3)
    assert path.read_text() == "".join(f"{line}\n" for line in lines[:3])


def test_written_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    assert written_metrics(path) == {}
    lines = [{"iteration": 4, "bbox/AP": 1.0}, {"iteration": 4, "lr": 0.1}, {"iteration": 5}]
    path.write_text("\n".join([*map(json.dumps, lines), '{"iteration": 6, "lr']))
    assert written_metrics(path) == {4: {"iteration", "bbox/AP", "lr"}, 5: {"iteration"}}


class Idle(TrainerBase):
    def run_step(self) -> None:
        self.storage.put_scalars(total_loss=0.25, lr=0.125)


def test_bar_shows_loss_and_rate(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Idle()
    trainer.register_hooks([ProgressBar()])
    trainer.train(2, 6)
    shown = capsys.readouterr().err
    assert "6/6" in shown
    assert "loss=0.25" in shown
    assert "lr=0.125" in shown
    assert not sys.stderr.isatty()


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"accumulate": 0}, r"train\.accumulate: expected at least 1, got 0"),
        ({"accumulate": 1.5}, r"train\.accumulate: expected a whole number, got 1\.5"),
        ({"clip_grad": {"max_norm": 0}}, r"max_norm: expected a number above 0, or null .*, got 0"),
        ({"clip_grad": {"max_norm": "big"}}, r"max_norm: expected a number or null, got 'big'"),
        ({"ema": {"decay": 1}}, r"train\.ema\.decay: expected a number between 0 and 1, .* got 1"),
        ({"freeze_blocks": -1}, r"train\.freeze_blocks: expected at least 0, got -1"),
        ({"compile": "yes"}, r"train\.compile: expected true or false, got 'yes'"),
        (
            {"activation_checkpointing": "full"},
            r"train\.activation_checkpointing: expected true, false or selective, got 'full'",
        ),
        ({"best_metric": 50}, r"train\.best_metric: expected the name of a metric.*, got 50"),
        ({"global_batch": 2.5}, r"train\.global_batch: expected a whole number, got 2\.5"),
    ],
)
def test_wrong_training_options_are_named(train: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_settings(OmegaConf.create({"train": train}))


def test_training_options_are_off_where_a_recipe_lacks_them() -> None:
    plain = read_settings(OmegaConf.create({"model": {}}))
    null = {"ema": None, "clip_grad": None, "global_batch": None, "best_metric": None}
    for settings in (plain, read_settings(OmegaConf.create({"train": null}))):
        assert (settings.accumulate, settings.freeze_blocks) == (1, 0)
        assert (settings.compile, settings.activation_checkpointing) == (False, False)
        found = {settings.max_grad_norm, settings.ema_decay, settings.global_batch}
        assert {*found, settings.best_metric} == {None}


def test_a_recipe_that_was_not_scaled_is_refused() -> None:
    train = {"global_batch": 16, "accumulate": 2}
    cfg = OmegaConf.create({"train": train, "dataloader": {"train": {"total_batch_size": 64}}})
    with pytest.raises(RecipeError, match=r"call vitdet_d2\.solver\.scale_recipe\(cfg, 16\)"):
        require_batch(cfg, read_settings(cfg))
    cfg.dataloader.train.total_batch_size = 8
    require_batch(cfg, read_settings(cfg))


@pytest.mark.parametrize(("max_iter", "warned"), [(1000, True), (50000, False)])
def test_an_average_of_first_weights_is_warned_of(
    max_iter: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """0.9998 to the power of 1000 is 0.819; 1% is left by 0.01 ** (1 / 1000) = 0.9954."""
    train = {"ema": {"decay": 0.9998}, "max_iter": max_iter}
    with caplog.at_level("WARNING"):
        build_average(torch.nn.Linear(1, 1), read_settings(OmegaConf.create({"train": train})))
    assert ("still make up 82%" in caplog.text) == warned
    assert ("0.9954" in caplog.text) == warned
