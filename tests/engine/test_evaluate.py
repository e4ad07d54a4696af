# SPDX-License-Identifier: Apache-2.0
"""Evaluation of saved weights: refused when they do not fit, and it leaves no trace."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine.tiny_run import TinyModel, config
from vitdet_d2.engine import evaluate, random_state
from vitdet_d2.engine.evaluate import do_eval, evaluate_model, require_same_classes
from vitdet_d2.errors import RecipeError, WeightsError


def weights(path: Path, classes: list[str], model: torch.nn.Module | None = None) -> str:
    extra = {"schema": 1, "thing_classes": classes, "dataset_ids": [1, 2], "recipe": ""}
    torch.save({"model": (model or TinyModel()).state_dict(), "vitdet_d2": extra}, path)
    return str(path)


def test_results_are_returned_and_written(tiny_data: Path, tmp_path: Path) -> None:
    cfg = config(tiny_data, tmp_path)
    cfg.train.init_checkpoint = weights(tmp_path / "w.pth", ["round", "square"])
    assert do_eval(cfg) == {"bbox": {"AP": 7.0}}
    written = json.loads((tmp_path / "inference" / "results.json").read_text())
    assert written == {"bbox": {"AP": 7.0}}


def test_attention_is_chosen_for_inference_in_the_type_of_evaluation(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(
        evaluate,
        "choose_attention",
        lambda _model, dtype, *, training: asked.append((dtype, training)),
    )
    cfg = config(tiny_data, tmp_path)
    cfg.train.inference_dtype = "bf16"
    cfg.train.init_checkpoint = weights(tmp_path / "w.pth", ["round", "square"])
    do_eval(cfg)
    assert asked == [(torch.bfloat16, False)]


def test_other_class_names_are_refused_before_evaluation(tiny_data: Path, tmp_path: Path) -> None:
    cfg = config(tiny_data, tmp_path)
    cfg.train.init_checkpoint = weights(tmp_path / "w.pth", ["round", "cubic"])
    with pytest.raises(WeightsError, match="different names at 1: 'cubic' / 'square'"):
        do_eval(cfg)
    assert not (tmp_path / "inference").exists()


def test_class_counts_are_compared() -> None:
    require_same_classes(None, ["a"], "w.pth")
    require_same_classes(["a", "b"], ("a", "b"), "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth: trained on 1 classes, the test data has 2"):
        require_same_classes(["a"], ["a", "b"], "w.pth")


def test_weights_of_another_model_are_refused(tiny_data: Path, tmp_path: Path) -> None:
    cfg = config(tiny_data, tmp_path, ballast=3)
    cfg.train.init_checkpoint = weights(tmp_path / "w.pth", ["round", "square"])
    with pytest.raises(WeightsError, match=r"w\.pth: .*missing, for example, ballast"):
        do_eval(cfg)


def test_no_weights_or_no_evaluator_is_said(tiny_data: Path, tmp_path: Path) -> None:
    cfg = config(tiny_data, tmp_path)
    with pytest.raises(RecipeError, match=r"train\.init_checkpoint: evaluation needs weights"):
        do_eval(cfg)
    cfg.train.init_checkpoint = weights(tmp_path / "w.pth", ["round", "square"])
    del cfg.dataloader["evaluator"]
    with pytest.raises(RecipeError, match=r"dataloader\.evaluator: the recipe has none"):
        do_eval(cfg)
    assert evaluate_model(cfg, TinyModel(), tmp_path) == {}


def test_random_state_and_mode_are_as_before(tiny_data: Path, tmp_path: Path) -> None:
    cfg = config(tiny_data, tmp_path)
    cfg.train.init_checkpoint = weights(tmp_path / "w.pth", ["round", "square"])
    do_eval(cfg)  # registers the data
    model = TinyModel().train()
    random_state.seed_everything(4)
    expected = random.random(), np.random.rand(), float(torch.rand(()))
    random_state.seed_everything(4)
    evaluate_model(cfg, model, tmp_path)
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected
    assert model.training
