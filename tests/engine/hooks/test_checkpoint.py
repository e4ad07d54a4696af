# SPDX-License-Identifier: Apache-2.0
"""What is saved at the end of a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from vitdet_d2.engine.checkpoint_store import AVERAGE_FINAL, CheckpointStore
from vitdet_d2.engine.hooks.checkpoint import CheckpointHook


def weights(value: float) -> dict[str, Any]:
    return {"model": {"w": torch.tensor(value)}}


def test_average_of_a_repeated_end_replaces_the_earlier_one(tmp_path: Path) -> None:
    """As after a resume from further back with other settings: same iteration, other weights."""
    store = CheckpointStore(tmp_path, retry_seconds=())
    for value in (1.0, 2.0):
        hook = CheckpointHook(
            store,
            period=100,
            eval_period=0,
            collect_state=lambda _, value=value: weights(-value),
            meta={},
            collect_average=lambda _, value=value: weights(value),
        )
        hook.trainer = SimpleNamespace(  # type: ignore[assignment]
            iter=3, start_iter=0, max_iter=4, stop_signum=0, last_checkpoint=""
        )
        hook.after_step()
        saved = torch.load(tmp_path / AVERAGE_FINAL, weights_only=True)
        assert saved["model"]["w"] == value
