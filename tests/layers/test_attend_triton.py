# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of attention, without a CUDA device: their numbers in Triton's interpreter, and
what the compiler makes of them for the devices that they are meant for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vitdet_d2.layers import attend_triton as module
from vitdet_d2.layers.attend_triton import attend_triton, tile_columns, unsupported

triton = pytest.importorskip("triton", reason="PyTorch brings Triton where it has CUDA")
ROOT = Path(__file__).parents[2]
# float16: 10 bits of every factor of a product.
TOLERANCES = {"torch.float32": 3e-6, "torch.float16": 2e-3}


@pytest.fixture(scope="module")
def interpreted():
    job = subprocess.run(
        [sys.executable, "-m", "tests.layers.attend_triton_job"],
        capture_output=True, text=True, cwd=ROOT, timeout=300,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert job.returncode == 0, job.stderr
    return [json.loads(line) for line in job.stdout.splitlines()]


def test_results_and_gradients_equal_the_formula(interpreted):
    cases = [line for line in interpreted if "case" in line]
    assert len(cases) == 5
    for line in cases:
        tolerance = next(value for dtype, value in TOLERANCES.items() if dtype in line["case"])
        assert max(line["differences"]) < tolerance, line
        assert len(line["differences"]) == 4


def test_terms_of_minus_infinity_mask_keys(interpreted):
    assert next(line["masked"] for line in interpreted if "masked" in line) < 1e-6


def test_the_operator_is_registered_rightly(interpreted):
    assert [line["registered"] for line in interpreted if "registered" in line] == [["SUCCESS"]]


@pytest.mark.parametrize(
    ("width", "columns"), [(64, 64), (14, 16), (50, 64), (76, 16), (20, 32), (128, 64), (1, 16)]
)
def test_tiles_waste_little(width, columns):
    assert tile_columns(width) == columns


@pytest.mark.parametrize(("head_dim", "width"), [(64, 14), (80, 64)])
def test_compiles_for_hopper_within_its_shared_memory(head_dim, width, monkeypatch):
    """What does not need a device to be known: types, matrix units used, shared memory."""
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns of an unset choice
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from vitdet_d2.layers import triton_kernels as kernels

    stages = {"attention_forward": 3 if head_dim <= 64 else 2}
    for name in ("attention_forward", "attention_backward_queries", "attention_backward_keys"):
        kernel = getattr(kernels, name)
        queries = module.FORWARD_QUERIES if name in stages else module.BACKWARD_QUERIES
        blocks = module._blocks(head_dim, width, queries)
        signature = {a: _type(a) if a not in blocks else "constexpr" for a in kernel.arg_names}
        constants = {(kernel.arg_names.index(a),): value for a, value in blocks.items()}
        compiled = triton.compile(
            ASTSource(kernel, signature, constexprs=constants),
            target=GPUTarget("cuda", 90, 32),
            options={"num_warps": module.WARPS, "num_stages": stages.get(name, 2)},
        )
        assert "wgmma" in compiled.asm["ptx"], "the matrix units of Hopper are not used"
        # Two programs share the 227 KB of a multiprocessor.
        assert compiled.metadata.shared <= 113 * 1024, (name, compiled.metadata.shared)


def _type(argument):
    if argument in ("lse", "delta", "of_rel_h", "of_rel_w"):
        return "*fp32"
    if argument == "scale":
        return "fp32"
    is_stride = argument[-2:] in ("_b", "_h", "_n") and argument != "rel_h"
    return "i32" if is_stride or argument in ("heads", "N", "H", "W") else "*bf16"


@pytest.mark.parametrize(
    ("q", "reason"),
    [
        (torch.zeros(1, 1, 4, 8), "needs a CUDA device, got cpu; take method 'auto'"),
        (torch.zeros(1, 1, 4, 8, device="meta"), "needs a CUDA device, got meta"),
    ],
)
def test_what_is_not_supported_is_said(q, reason):
    term = torch.zeros(1, 1, 4, 2, device=q.device)
    with pytest.raises(ValueError, match=reason):
        attend_triton(q, q, q, (term, term), 1.0)


def test_number_formats_and_head_sizes_that_are_refused(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "got torch.float64" in unsupported(torch.zeros(1, 1, 4, 8, dtype=torch.float64))
    assert "up to 128 channels, got 136" in unsupported(torch.zeros(1, 1, 4, 136))
    assert unsupported(torch.zeros(1, 1, 4, 128)) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("hw", "head_dim"), [((64, 64), 64), ((14, 14), 64), ((50, 76), 80)])
def test_on_a_device_equals_the_formula_and_repeats(dtype, hw, head_dim):
    from vitdet_d2.layers.attend import attend_explicit

    torch.manual_seed(0)
    N = hw[0] * hw[1]
    shapes = [(2, 3, N, size) for size in (head_dim, head_dim, head_dim, *hw)]
    inputs = [torch.randn(s, device="cuda", dtype=dtype).requires_grad_() for s in shapes]
    cotangent = torch.randn(shapes[0], device="cuda", dtype=dtype)

    def run(way, digits):
        q, k, v, rel_h, rel_w = (t.to(digits) for t in inputs)
        out = way(q, k, v, (rel_h, rel_w), head_dim**-0.5)
        return [out, *torch.autograd.grad((out * cotangent).sum(), inputs)]

    expected, first, second = (
        run(attend_explicit, torch.float64), run(attend_triton, dtype), run(attend_triton, dtype),
    )  # fmt: skip
    tolerance = 2e-2 if dtype == torch.bfloat16 else 3e-3
    for theirs, ours, again in zip(expected, first, second, strict=True):
        assert (ours.double() - theirs.double()).abs().max() <= tolerance * theirs.abs().max()
        assert torch.equal(ours, again), "the same input gives the same bits"
