# SPDX-License-Identifier: Apache-2.0
"""What a measuring process does, in this one; and what becomes of it, apart."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.engine.tiny_detector import OVERRIDES
from vitdet_d2.analysis import measure, measured_run
from vitdet_d2.analysis.job import Job, Outcome
from vitdet_d2.analysis.measured_run import is_out_of_memory, requested_bytes
from vitdet_d2.analysis.runs import detect_much, precision_of, training_batch, training_run
from vitdet_d2.engine.build import build_model
from vitdet_d2.engine.settings import read_settings
from vitdet_d2.errors import RecipeError

TINY = (
    *OVERRIDES,
    "model.backbone.net.depth=1",
    "model.backbone.net.window_block_indexes=[]",
    "model.roi_heads.batch_size_per_image=8",
)


def job(**changes) -> Job:
    values = {"recipe": "quickstart", "overrides": TINY, "phase": "training"}
    return Job(**{**values, "image_size": (64, 96), **changes})


@pytest.fixture(autouse=True)
def _no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit would stay with this process."""
    monkeypatch.setattr(measured_run, "limit_growth", lambda growth: None)


@pytest.mark.parametrize("part", ["model", "backbone"])
@pytest.mark.parametrize("phase", ["inference", "training"])
def test_runs_both_phases(part, phase):
    outcome = measured_run.measure(job(part=part, phase=phase, batch=2, repeats=2))
    assert outcome.failure is None
    assert outcome.seconds is not None
    assert outcome.seconds > 0
    assert outcome.precision == "fp32"
    assert outcome.hardware is not None
    found = outcome.detections
    assert (
        (found is not None and found > 10)
        if (part, phase) == ("model", "inference")
        else (found is None)
    )
    assert Outcome.from_json(outcome.to_json()) == outcome


def test_training_heads_have_their_nominal_load(monkeypatch):
    """As many objects as may be positive: the mask head gets all of them."""
    cfg = measured_run.recipe_of(job())
    assert cfg.model.backbone.square_pad == 0
    model = build_model(cfg, torch.device("cpu"))
    (sample,) = training_batch(job(), cfg, model)
    heads = model.roi_heads
    assert len(sample["instances"]) == heads.batch_size_per_image * heads.positive_fraction
    masks = []
    forward = heads.mask_head.forward
    monkeypatch.setattr(
        heads.mask_head, "forward", lambda x, boxes: masks.append(len(x)) or forward(x, boxes)
    )
    settings = read_settings(cfg)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step = training_run(job(), cfg, model, settings, None)
    step()
    step()
    assert masks == [len(sample["instances"])] * 2
    # The gradients are there, and the weights stay: every step is alike.
    assert all(p.grad is not None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    (fewer,) = training_batch(job(num_objects=1), cfg, model)
    assert len(fewer["instances"]) == 1


def test_precision():
    cfg = measured_run.recipe_of(job())
    settings = read_settings(cfg)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert precision_of(job(), settings, cuda) is torch.bfloat16  # of the recipe
    assert precision_of(job(phase="inference"), settings, cuda) is None
    assert precision_of(job(), settings, cpu) is None
    assert precision_of(job(amp="bf16"), settings, cpu) is torch.bfloat16
    assert precision_of(job(amp="fp16", phase="inference"), settings, cuda) is torch.float16
    assert precision_of(job(amp="off"), settings, cuda) is None
    outcome = measured_run.measure(job(amp="bf16", part="backbone"))
    assert outcome.precision == "bf16"


def test_out_of_memory_is_an_outcome(monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000000000 bytes. Error code 12")  # fmt: skip  # noqa: E501

    monkeypatch.setattr(measured_run, "build_model", fail)
    outcome = measured_run.measure(job())
    assert outcome.out_of_memory
    assert outcome.need_bytes is not None
    assert 8e9 <= outcome.need_bytes < 12e9
    assert outcome.failure is not None
    assert outcome.failure.startswith("out of memory (needs > ")


def test_messages_of_allocators():
    message = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79"
    assert is_out_of_memory(torch.OutOfMemoryError(message))
    assert requested_bytes(message) == 2.5 * 2**30
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("std::bad_alloc"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert requested_bytes("std::bad_alloc") == 0
    assert requested_bytes("you tried to allocate 12 bytes.") == 12


def test_other_errors_are_no_outcome_of_memory():
    with pytest.raises(RecipeError, match=r"no key 'model\.nonsense'"):
        measured_run.measure(job(overrides=("model.nonsense=1",)))


def test_detects_much_with_random_weights():
    heads = nn.Module()
    heads.box_predictor = nn.ModuleList([nn.Module(), nn.Module()])
    for stage in heads.box_predictor:
        stage.cls_score = nn.Linear(4, 3)
    model = nn.Module()
    model.roi_heads = heads
    detect_much(model)
    for stage in heads.box_predictor:
        assert stage.cls_score(torch.zeros(1, 4)).softmax(-1)[0, 0] > 0.99
    detect_much(nn.Linear(2, 2))  # nothing to do


def test_process_of_its_own_with_a_limit():
    """The limit fails an allocation in the process, and nothing else."""
    outcome = measure.measure_apart(job(phase="inference", memory_limit=3_000_000))
    assert outcome.out_of_memory
    assert outcome.need_bytes is not None
    assert outcome.need_bytes > 3_000_000


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        ("kill -9 $$", "out of memory"),
        ("echo 'bad luck' >&2; kill -11 $$", "the measuring process ended by SIGSEGV: bad luck"),
        ("echo first; echo last; exit 7", "the measuring process ended with code 7: last"),
        ("exit 0", "the measuring process ended with code 0: no message"),
    ],
)
def test_whatever_becomes_of_the_process(script, failure, tmp_path: Path, monkeypatch):
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    reason = measure.measure_apart(job()).failure
    assert reason is not None
    assert reason.partition(" (needs")[0] == failure


def test_jobs_as_text():
    full = job(num_objects=3, memory_limit=10, device="cuda:1", amp="fp16", part="backbone")
    assert Job.from_json(full.to_json()) == full


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu():
    for phase in ("inference", "training"):
        outcome = measure.measure_apart(job(phase=phase, device="cuda", repeats=3, warmup=2))
        assert outcome.failure is None
        assert outcome.peak_bytes is not None
        assert 1e6 < outcome.peak_bytes < 2e9
        assert outcome.hardware == torch.cuda.get_device_name()
        assert outcome.precision == ("bf16" if phase == "training" else "fp32")
    limited = measure.measure_apart(job(device="cuda", memory_limit=1_000_000))
    assert limited.out_of_memory
    assert limited.need_bytes is not None
    assert limited.need_bytes > 1_000_000
