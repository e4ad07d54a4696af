# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from omegaconf import OmegaConf

from tests.engine.test_block_options import detector
from vitdet_d2.engine import block_options, build
from vitdet_d2.engine.build import apply_block_options
from vitdet_d2.engine.cuda_graphs import require_cuda_graphs
from vitdet_d2.engine.settings import read_settings
from vitdet_d2.errors import RecipeError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def settings(**train):
    return read_settings(OmegaConf.create({"train": train}))


def test_refused_without_cuda():
    with pytest.raises(RecipeError, match="expected a CUDA device, got cpu"):
        apply_block_options(detector(), settings(cuda_graphs=True, compile=True), CPU)


@pytest.mark.parametrize(
    ("compiled", "recompute", "message"),
    [(False, False, "train.compile=true"), (True, True, "selective or false")],
)
def test_refused_where_it_cannot_work(compiled, recompute, message):
    with pytest.raises(RecipeError, match=message):
        require_cuda_graphs(CUDA, compiled=compiled, recompute=recompute)


def test_refused_where_gradients_stay_from_batch_to_batch(monkeypatch):
    asked = []
    monkeypatch.setattr(build, "require_cuda_graphs", lambda *_, **asks: asked.append(asks))
    monkeypatch.setattr(build, "compile_blocks", lambda *_, **__: None)
    apply_block_options(detector(), settings(cuda_graphs=True, compile=True, accumulate=2), CPU)
    with pytest.raises(RecipeError, match=r"expected train\.accumulate=1, got 2"):
        require_cuda_graphs(CUDA, **asked[0])


@pytest.mark.parametrize("recompute", [False, "selective"])
def test_accepted_otherwise(recompute):
    require_cuda_graphs(CUDA, compiled=True, recompute=recompute)


@pytest.mark.parametrize("wanted", [False, True])
def test_blocks_are_recorded_and_steps_marked(wanted, monkeypatch):
    given, marks = [], []

    def compiled(function, *, dynamic, options):
        given.append((dynamic, options))
        return function

    monkeypatch.setattr(block_options, "require_compiler", lambda device: None)
    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(1))
    model = detector(depth=3)
    block_options.compile_blocks(model, CPU, cuda_graphs=wanted)
    assert given == [(False, {"triton.cudagraphs": True} if wanted else None)] * 3
    for _ in range(2):
        model.backbone(torch.zeros(1, 3, 64, 64))
    assert len(marks) == (2 if wanted else 0)


def test_setting_is_a_switch():
    assert not settings().cuda_graphs
    with pytest.raises(RecipeError, match=r"train\.cuda_graphs: expected true or false, got 1"):
        settings(cuda_graphs=1)
