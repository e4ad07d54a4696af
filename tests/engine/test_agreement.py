# SPDX-License-Identifier: Apache-2.0
"""What one process tells itself after a backward pass; two processes: see `test_two_processes`."""

from __future__ import annotations

import torch

from vitdet_d2.analysis.host_syncs import count_host_syncs
from vitdet_d2.engine.agreement import Report, exchange

LOSSES = [torch.tensor(1.5), torch.tensor([0.1]), torch.tensor(2.0, dtype=torch.float64)]


def test_a_report_says_what_was_put_in() -> None:
    reports, own = exchange(LOSSES, torch.tensor(3.0), data_time=0.1, signum=15)
    first = float(torch.tensor(0.1))
    assert reports == [Report(losses=(1.5, first, 2.0), grad_norm=3.0, data_time=0.1, signum=15)]
    assert own == []


def test_own_numbers_come_back_by_the_way() -> None:
    numbers = torch.tensor([7.0, 0.25, -1.0])
    reports, own = exchange(LOSSES, torch.tensor(3.0), data_time=0.1, signum=0, own=numbers)
    assert own == [7.0, 0.25, -1.0]
    assert reports[0].losses[2] == 2.0


def test_the_host_waits_once() -> None:
    norm, numbers = torch.tensor(3.0), torch.zeros(4)
    syncs = count_host_syncs(lambda: exchange(LOSSES, norm, data_time=0.1, signum=0, own=numbers))
    assert syncs.by_operator == {"tolist": 1}
