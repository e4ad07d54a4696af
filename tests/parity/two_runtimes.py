# SPDX-License-Identifier: Apache-2.0
"""The bundled runtime and an installed Detectron2, each in a process of its own.

Imports no ``detectron2``: the process that compares needs neither.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def run_in_process(
    runtime: str, name: str, dtype: str, folder: Path, module: str = "mask_rcnn_case"
) -> dict[str, Any]:
    """Run a case in a process of its own.

    Args:
        runtime: ``bundled`` or ``installed``.
        name: of the case.
        dtype: ``float32`` or ``float64``.
        folder: where the results are kept.
        module: of `tests.parity`, which has the cases.

    Returns:
        What ``run`` gives, and ``initial`` weights.
    """
    path = folder / f"{runtime}_{name}_{dtype}.pt"
    subprocess.run(
        [sys.executable, "-m", f"tests.parity.{module}", name, str(path), "--dtype", dtype],
        # One thread: the order of sums is then the same on every machine.
        env={**os.environ, "VITDET_D2_RUNTIME": runtime, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        check=True,
    )
    return torch.load(path, weights_only=True)


def run_yacs_in_process(runtime: str, folder: Path, configs: Path) -> dict[str, Any]:
    """Run `tests.parity.yacs_case` in a process of its own.

    Args:
        runtime: ``bundled`` or ``installed``.
        folder: empty; where the data and the results are kept.
        configs: YAML files to merge.

    Returns:
        What ``main`` of the case saves.
    """
    subprocess.run(
        [sys.executable, "-m", "tests.parity.yacs_case", str(folder), str(configs)],
        env={**os.environ, "VITDET_D2_RUNTIME": runtime},
        cwd=Path(__file__).parents[2],
        check=True,
    )
    # The configurations' lists and numbers beside tensors; written by this test itself.
    return torch.load(folder / "result.pt", weights_only=True)
