# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.tuning.fake_cells import GRID
from vitdet_d2.tuning.cells import Cell
from vitdet_d2.tuning.heat_map import draw_heat_map


def draw(path: Path, values: dict[Cell, float | None], best: Cell | None = None) -> np.ndarray:
    draw_heat_map(GRID, values, best, metric="bbox/AP", title="study", path=path)
    return np.asarray(Image.open(path).convert("RGB"), dtype=int)


def test_the_best_cell_is_framed(tmp_path: Path) -> None:
    cells = GRID.cells(0.0)
    values: dict[Cell, float | None] = {cell: float(i) for i, cell in enumerate(cells)}
    plain = draw(tmp_path / "plain.png", values)
    framed = draw(tmp_path / "framed.png", values, cells[0])
    assert plain.shape == framed.shape
    changed = np.argwhere((plain != framed).any(axis=-1))
    assert len(changed) > 100
    # In the upper left quarter, where the lowest learning rate and weight decay are.
    height, width, _ = plain.shape
    assert (changed.mean(0) < (height / 2, width / 2)).all()


def test_nothing_known_and_failed_cells_can_be_drawn(tmp_path: Path) -> None:
    cells = GRID.cells(0.0)
    nothing = draw(tmp_path / "nothing.png", {})
    failed = draw(tmp_path / "failed.png", dict.fromkeys(cells))
    assert (nothing != failed).any()


def test_equal_studies_give_equal_files(tmp_path: Path) -> None:
    values: dict[Cell, float | None] = {GRID.cells(0.0)[0]: 1.0}
    for name in ("a.png", "b.png"):
        draw(tmp_path / name, values)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
