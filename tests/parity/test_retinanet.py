# SPDX-License-Identifier: Apache-2.0
"""RetinaNet of the bundled runtime against that of Detectron2: pyramid, anchors, head, losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity.two_runtimes import run_in_process
from vitdet_d2 import runtime

pytestmark = [
    pytest.mark.parity,
    pytest.mark.slow,
    pytest.mark.skipif(
        runtime.current().name != "installed", reason="Detectron2 is not installed (or not chosen)"
    ),
]

RUNS = [
    ("l1", "float32"),
    *((name, "float64") for name in ("l1", "smooth", "giou", "diou", "ciou", "batch_norm")),
]


def _difference(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return float((a - b).abs().max() / b.abs().max())


@pytest.fixture(scope="module", params=RUNS, ids="-".join)
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """What both runtimes compute, and whether in float64."""
    folder = tmp_path_factory.mktemp("results")
    ours, theirs = (
        run_in_process(name, *request.param, folder, module="retinanet_case")
        for name in ("bundled", "installed")
    )
    return ours, theirs, request.param[1] == "float64"


def test_names_shapes_and_seeded_initial_weights_equal_detectron2(results: Any) -> None:
    ours, theirs, _ = results
    assert ours["keys"] == theirs["keys"]
    for name, value in theirs["initial"].items():
        assert torch.equal(ours["initial"][name], value), name


def test_detections_equal_detectron2(results: Any) -> None:
    ours, theirs, _ = results
    for a, b in zip(ours["eval"], theirs["eval"], strict=True):
        assert len(b["classes"]) >= 20
        assert len(b["classes"].unique()) >= 3
        for name, value in b.items():
            assert torch.equal(a[name], value), name


def test_losses_and_gradients_equal_detectron2(
    results: Any, request: pytest.FixtureRequest
) -> None:
    ours, theirs, is_double = results
    a, b = ours["train"], theirs["train"]
    assert list(a["losses"]) == list(b["losses"])
    for name, loss in b["losses"].items():
        # In float64 nothing but the order of sums differs; boxes are float32 in both.
        assert _difference(a["losses"][name], loss) <= (1e-12 if is_double else 1e-5), name
    assert a["gradients"].keys() == b["gradients"].keys()
    for name, gradient in b["gradients"].items():
        if float(gradient.abs().max()) < 1e-12:  # a bias before a batch norm: 0 but for rounding
            assert "batch_norm" in request.node.name, name
            assert float(a["gradients"][name].abs().max()) < 1e-12, name
            continue
        assert _difference(a["gradients"][name], gradient) <= (1e-7 if is_double else 1e-3), name
    assert a["logged"] == pytest.approx(b["logged"], rel=1e-12)
    assert a["statistics"].keys() == b["statistics"].keys()
    for name, value in b["statistics"].items():
        torch.testing.assert_close(a["statistics"][name], value)
