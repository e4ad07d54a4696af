# SPDX-License-Identifier: Apache-2.0
"""Run folders with ``metrics.json``, ``config.json`` and ``log.txt`` as runs leave them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def make_run(
    folder: Path,
    curve: Mapping[int, float],
    *,
    trained: int = 0,
    max_iter: int | None = 100,
    epochs: Any = None,
    batch: Any = 4,
    data: str = "digits_train",
    init: str = "mae_vit_b",
    recipe: str = "quickstart",
    log: str = "",
) -> Path:
    """Write a run whose box AP after so many iterations is `curve`; mask AP is 1 less."""
    folder.mkdir(parents=True)
    end = max([trained, *curve])
    rows = [{"iteration": i, "total_loss": 2.0, "lr": 0.1} for i in range(9, end, 10)]
    for done, ap in curve.items():
        iteration = done if done == max_iter else done - 1
        rows.append({"iteration": iteration, "bbox/AP": ap, "segm/AP": ap - 1, "segm/APr": 5.0})
    rows.sort(key=lambda row: row["iteration"])
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if max_iter is not None:
        config = {
            "train": {
                "max_iter": max_iter,
                "epochs": epochs,
                "init_checkpoint": init,
                "accumulate": 2,
            },
            "dataloader": {"train": {"total_batch_size": batch, "dataset": {"names": data}}},
        }
        (folder / "config.json").write_text(json.dumps(config))
        head = f"[11/21 10:52:40] vitdet_d2.engine.run INFO: Recipe {recipe} train.max_iter=9\n"
        (folder / "log.txt").write_text(head + log)
    return folder
