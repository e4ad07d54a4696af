# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import nn

from tests.parity.retinanet_case import Stages
from vitdet_d2.engine import loss_normalizers


def _model() -> nn.Module:
    """Two detectors in one model, as in distillation."""
    parts = {
        name: DenseDetector(Stages(), nn.Identity(), pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3)
        for name in ("teacher", "student")
    }
    return nn.ModuleDict(parts)


def _step(model: nn.Module, name: str, count: int) -> float:
    return model[name]._ema_update("loss_normalizer", count, 100)


def test_an_average_continues_where_it_was() -> None:
    model = _model()
    assert loss_normalizers.capture(model) == {}
    _step(model, "student", 20)
    saved = loss_normalizers.capture(model)
    assert saved == {"student": pytest.approx(92.0)}
    expected = _step(model, "student", 30)
    other = _model()
    loss_normalizers.restore(other, [saved], 0, 1)
    assert _step(other, "student", 30) == expected
    assert _step(other, "teacher", 0) == pytest.approx(90.0)  # as at the beginning


def test_every_rank_gets_its_own_or_all_the_mean() -> None:
    saved = [{"student": 10.0}, {"student": 30.0, "teacher": 5.0}]
    second = _model()
    loss_normalizers.restore(second, saved, 1, 2)
    assert loss_normalizers.capture(second) == {"teacher": 5.0, "student": 30.0}
    alone = _model()
    loss_normalizers.restore(alone, saved, 0, 1)
    assert loss_normalizers.capture(alone) == {"teacher": 5.0, "student": 20.0}
    loss_normalizers.restore(alone, (), 0, 1)  # a checkpoint from before
    assert loss_normalizers.capture(alone) == {"teacher": 5.0, "student": 20.0}
