# SPDX-License-Identifier: Apache-2.0
"""How often one step of the trainer waits for the device, and what is logged by the way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from vitdet_d2.analysis.host_syncs import HostSyncs, count_host_syncs
from vitdet_d2.engine.trainer import Trainer
from vitdet_d2.heads.late_scalars import log_scalars


class Model(nn.Module):
    """Two losses, and a number on the device that is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, batch: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        y = self.layer(torch.stack([sample["image"] for sample in batch]))
        count = torch.stack([sample["image"][0] for sample in batch]).sum()
        log_scalars([count], lambda numbers: {"heads/count": numbers[0]})
        return {"loss_a": y.square().mean(), "loss_b": y.abs().mean()}


def batches() -> Iterator[list[dict[str, Any]]]:
    for i in itertools.count():
        yield [{"image": torch.full((4,), float(i)), "file_name": "?"} for _ in range(2)]


def waits_of_a_step(**options: Any) -> tuple[HostSyncs, EventStorage]:
    """The waits of the second step; the first one makes the state of the optimizer."""
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    trainer = Trainer(model, batches(), optimizer, **options)
    trainer.iter = 0
    with EventStorage() as trainer.storage:
        trainer.run_step()
        trainer.storage.step()
        return count_host_syncs(trainer.run_step), trainer.storage


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0}, {"accumulate": 3}], ids=str)
def test_a_step_waits_once(options: dict[str, Any]) -> None:
    syncs, _ = waits_of_a_step(**options)
    assert syncs.total == 1, syncs
    assert "agreement.py" in syncs.places[0].place


def test_what_heads_log_is_stored_under_the_iteration_of_the_step() -> None:
    _, storage = waits_of_a_step()
    # Batch 0 and batch 1, of two images each.
    assert storage.history("heads/count").values() == [(0.0, 0), (2.0, 1)]
    _, storage = waits_of_a_step(accumulate=2)
    assert storage.history("heads/count").values() == [(0.0, 0), (2.0, 0), (4.0, 1), (6.0, 1)]
