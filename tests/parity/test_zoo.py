# SPDX-License-Identifier: Apache-2.0
"""A file with the layout of a released checkpoint predicts the same in Detectron2 and here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity.zoo_case import MODELS
from vitdet_d2 import runtime

pytestmark = [
    pytest.mark.parity,
    pytest.mark.slow,
    pytest.mark.skipif(
        runtime.current().name != "installed", reason="Detectron2 is not installed (or not chosen)"
    ),
]


def predictions(which: str, name: str, file: Path) -> list[dict[str, Any]]:
    output = file.with_name(f"{which}.pt")
    subprocess.run(
        [sys.executable, "-m", "tests.parity.zoo_case", name, str(file), str(output)],
        env={**os.environ, "VITDET_D2_RUNTIME": which},
        cwd=Path(__file__).parents[2],
        check=True,
    )
    return torch.load(output, weights_only=True)


@pytest.mark.parametrize("name", MODELS)
def test_predictions_from_one_file_equal_detectron2(name: str, tmp_path: Path) -> None:
    file = tmp_path / "model_final_000000.pkl"
    theirs = predictions("installed", name, file)
    ours = predictions("bundled", name, file)
    for a, b in zip(ours, theirs, strict=True):
        assert len(b["classes"]) >= 20
        assert len(b["classes"].unique()) >= 3
        assert a["classes"].tolist() == b["classes"].tolist()
        assert float((a["boxes"] - b["boxes"]).abs().max()) <= 1e-6
        assert float((a["scores"] - b["scores"]).abs().max() / b["scores"].max()) <= 1e-12
        assert torch.equal(a["masks"], b["masks"])
        assert int(b["masks"].sum()) > 1000
