# SPDX-License-Identifier: Apache-2.0
"""The detectors of the bundled runtime against those of Detectron2: Ti size, variants smaller."""

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


def _difference(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return float((a - b).abs().max() / b.abs().max())


RUNS = [
    *((name, dtype) for name in ("ti", "ti_cascade") for dtype in ("float32", "float64")),
    *(
        (f"tiny_{name}", "float64")
        for name in ("boxes", "lvis", "cascade", "cascade_boxes", "cascade_lvis")
    ),
]


@pytest.fixture(scope="module", params=RUNS, ids="-".join)
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """What both runtimes compute, and whether in float64."""
    folder = tmp_path_factory.mktemp("results")
    ours, theirs = (
        run_in_process(name, *request.param, folder) for name in ("bundled", "installed")
    )
    return ours, theirs, request.param[1] == "float64"


def test_names_shapes_and_seeded_initial_weights_equal_detectron2(results: Any) -> None:
    ours, theirs, _ = results
    assert ours["keys"] == theirs["keys"]
    for name, value in theirs["initial"].items():
        assert torch.equal(ours["initial"][name], value), name


def test_detections_equal_detectron2(results: Any) -> None:
    ours, theirs, is_double = results
    for a, b in zip(ours["eval"], theirs["eval"], strict=True):
        assert len(b["classes"]) >= 20
        assert len(b["classes"].unique()) >= 3
        assert a["classes"].tolist() == b["classes"].tolist()
        assert float((a["boxes"] - b["boxes"]).abs().max()) <= 0.01
        # The bar of float32; in float64 nothing but the order of sums differs.
        assert _difference(a["scores"], b["scores"]) <= (1e-12 if is_double else 1e-5)
        assert a.keys() == b.keys()
        if "masks" not in b:
            continue
        # Of the pixels that any of the two masks has, so that the empty ones do not count.
        wrong, used = (a["masks"] != b["masks"]).sum(), (a["masks"] | b["masks"]).sum()
        assert int(used) > 1000
        assert int(wrong) <= (0 if is_double else 1e-3 * int(used))


def test_losses_and_gradients_equal_detectron2(results: Any) -> None:
    ours, theirs, is_double = results
    a, b = ours["train"], theirs["train"]
    assert list(a["losses"]) == list(b["losses"])
    for name, loss in b["losses"].items():
        assert _difference(a["losses"][name], loss) <= (1e-12 if is_double else 1e-5), name
    assert a["gradients"].keys() == b["gradients"].keys()
    for name, gradient in b["gradients"].items():
        assert float(gradient.abs().max()) > 0, name
        # float32: hidden units that rounding switches on or off; see the case.
        assert _difference(a["gradients"][name], gradient) <= (1e-7 if is_double else 1e-3), name
    assert a["logged"] == pytest.approx(b["logged"], rel=1e-6)
