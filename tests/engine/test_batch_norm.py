# SPDX-License-Identifier: Apache-2.0
"""SyncBN on one process, and on two CPU processes against one process with all images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.engine.batch_norm_job import CHANNELS, cotangent, image_batch, start
from tests.engine.zygote import Zygote
from vitdet_d2.engine.batch_norm import settle_batch_norms

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ([2, 3], {"momentum": 0.3}),
        ([5, 0], {"momentum": 0.3}),
        ([1, 4], {"momentum": None, "affine": False}),
    ],
)
def test_two_processes_are_one_with_all_images(
    zygote: Zygote, tmp_path: Path, sizes: list[int], options: dict[str, Any]
) -> None:
    norm = start(nn.BatchNorm2d(CHANNELS, **options))
    x = image_batch().requires_grad_()
    for _ in range(2):
        out = norm(x)
    (out * cotangent()).sum().backward()

    pids = [
        zygote.start(
            "tests.engine.batch_norm_job:run",
            tmp_path / f"log{rank}",
            folder=str(tmp_path),
            sizes=sizes,
            options=options,
            rank=rank,
            world_size=2,
        )
        for rank in (0, 1)
    ]
    assert [zygote.wait(pid) for pid in pids] == [0, 0]
    ranks = [torch.load(tmp_path / f"rank_{rank}.pth") for rank in (0, 1)]
    for key, expected in (("out", out), ("x", x.grad)):
        torch.testing.assert_close(torch.cat([rank[key] for rank in ranks]), expected)
    for key, parameter in norm.named_parameters():
        total = ranks[0][key] + ranks[1][key]
        torch.testing.assert_close(total, parameter.grad, rtol=1e-5, atol=1e-5)
    for rank in ranks:
        assert rank["state"].keys() == {f"0.{key}" for key in norm.state_dict()}
        for key, expected in norm.state_dict().items():
            torch.testing.assert_close(rank["state"][f"0.{key}"], expected)
        torch.testing.assert_close(rank["eval"], norm.eval()(image_batch()))


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.neck = nn.Sequential(nn.Conv2d(2, 3, 1), nn.SyncBatchNorm(3, eps=1e-3))
        self.head = nn.SyncBatchNorm(4, affine=False)
        self.plain = nn.BatchNorm2d(4)


@pytest.mark.parametrize(("images", "level"), [(1, logging.WARNING), (2, logging.INFO)])
def test_one_process_has_plain_norms_and_says_so_once(
    images: int, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    model = Detector()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with caplog.at_level(logging.INFO):
        settle_batch_norms(model, CPU, 1, images)
    assert type(model.neck[1]) is nn.BatchNorm2d
    assert type(model.head) is nn.BatchNorm2d
    assert model.neck[1].eps == 1e-3
    assert model.head.weight is None
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    (record,) = caplog.records
    assert record.levelno == level
    assert "2 norms are plain batch norms" in record.getMessage()
    assert ("single image" in record.getMessage()) is (images == 1)


def test_torchs_own_stay_on_several_gpus(caplog: pytest.LogCaptureFixture) -> None:
    model = settle_batch_norms(Detector(), torch.device("cuda"), 2, 1)
    assert type(model.neck[1]) is nn.SyncBatchNorm
    assert not caplog.records


def test_models_without_any_stay_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.BatchNorm2d(3)
    assert settle_batch_norms(model, CPU, 1, 1) is model
    assert not caplog.records
