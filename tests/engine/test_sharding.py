# SPDX-License-Identifier: Apache-2.0
"""FSDP and HSDP on gloo processes: the numbers and files of DDP and of one process."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tests.engine.test_resume import assert_same_run, load, metrics
from tests.engine.zygote import Zygote, wait_for
from vitdet_d2.engine.build import apply_block_options
from vitdet_d2.engine.checkpoint_store import CheckpointStore
from vitdet_d2.engine.run_folder import remove_run
from vitdet_d2.engine.settings import read_settings
from vitdet_d2.engine.shard_settings import ShardSettings, read_shard_settings
from vitdet_d2.engine.sharded_checkpoint import read_shards
from vitdet_d2.errors import RecipeError, WeightsError

STEPS = "tests.engine.parallel_job:run"
TRAIN = "tests.engine.tiny_run:train"
FSDP = {"fsdp": {"enabled": True}}


def start_all(zygote: Zygote, call: str, place: Path, size: int, **job: Any) -> list[int]:
    place.mkdir(exist_ok=True)
    (place / ".meet").unlink(missing_ok=True)
    log = place.parent
    return [
        zygote.start(call, log / f"log{r}", **job, rank=r, world_size=size) for r in range(size)
    ]


def run_all(zygote: Zygote, call: str, place: Path, size: int = 2, **job: Any) -> None:
    pids = start_all(zygote, call, place, size, **job)
    codes = [zygote.wait(pid) for pid in pids]
    assert codes == [0] * size, (place.parent / "log0").read_text()[-3000:]


def steps(zygote: Zygote, folder: Path, name: str, size: int, **job: Any) -> list[dict[str, Any]]:
    run_all(zygote, STEPS, folder, size, folder=str(folder), name=name, **job)
    return [torch.load(folder / f"{name}_{rank}.pth") for rank in range(size)]


@pytest.fixture(scope="module")
def alone(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One process with all images."""
    folder = tmp_path_factory.mktemp("alone")
    assert zygote.run(STEPS, folder / "log", folder=str(folder), name="x", train={}) == 0
    return torch.load(folder / "x_0.pth")


STRATEGIES: dict[str, tuple[int, dict[str, Any]]] = {
    "ddp": (2, {"train": {}}),
    "fsdp": (2, {"train": FSDP}),
    "fsdp, blocks kept gathered and recomputed": (
        2,
        {"train": {"fsdp": {"reshard_after_forward": False}}, "recompute": True},
    ),
    "hsdp, selective": (4, {"train": {"fsdp": {"shard_size": 2}}, "recompute": "selective"}),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_losses_weights_and_averages_are_those_of_one_process(
    zygote: Zygote, tmp_path: Path, alone: dict[str, Any], strategy: str
) -> None:
    """With accumulated and clipped gradients; the norms say that clipping did something."""
    size, job = STRATEGIES[strategy]
    ranks = steps(zygote, tmp_path / "run", "x", size, **job)
    assert min(alone["grad_norm"]) > 0.1
    for key in ("total_loss", "grad_norm"):
        assert ranks[0][key] == pytest.approx(alone[key], rel=1e-5), key
    for kind in ("model", "ema"):
        assert list(ranks[0][kind]) == list(alone[kind])
        for name, tensor in alone[kind].items():
            # Sums over images in another order, in float32.
            torch.testing.assert_close(ranks[0][kind][name], tensor, rtol=1e-4, atol=1e-6)
    # Every process holds its share of the numbers, up to rows that cannot be divided.
    shards = {"ddp": 1}.get(strategy, 2)
    for rank in ranks:
        assert rank["held"] <= 1.1 * alone["held"] / shards


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_bfloat16_on_the_way_changes_digits_only(
    zygote: Zygote, tmp_path: Path, alone: dict[str, Any], strategy: str
) -> None:
    """Gradients that are sent in bfloat16, or weights that are gathered in it."""
    if strategy == "ddp":
        job: dict[str, Any] = {"train": {"ddp": {"bf16_compression": True}}}
    else:
        job = {"train": {"fsdp": {"param_dtype": "bf16"}}, "in_bf16": True}
    found = steps(zygote, tmp_path / "run", "x", 2, **job)[0]
    # bfloat16 keeps 8 bits; norms and weights are sums of many such numbers.
    assert found["grad_norm"] == pytest.approx(alone["grad_norm"], rel=2e-2)
    assert found["grad_norm"] != pytest.approx(alone["grad_norm"], rel=1e-6)
    assert found["total_loss"] == pytest.approx(alone["total_loss"], rel=2e-2)
    for name, tensor in alone["model"].items():
        assert found["model"][name].dtype == torch.float32
        torch.testing.assert_close(found["model"][name], tensor, rtol=2e-2, atol=2e-3)


@pytest.fixture(scope="module")
def reference(zygote: Zygote, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded run, with an average and the best weights."""
    run = tmp_path_factory.mktemp("reference") / "run"
    run_all(zygote, TRAIN, run, **whole_run(tiny_data, run))
    return run


def whole_run(data: Path, run: Path, **changes: Any) -> dict[str, Any]:
    return {
        "data": str(data),
        "output_dir": str(run),
        "ema": {"decay": 0.9},
        "best_metric": None,
        **FSDP,
        **changes,
    }


def test_a_run_leaves_the_files_of_ddp(
    zygote: Zygote, tiny_data: Path, reference: Path, tmp_path: Path
) -> None:
    """To the last bit: two processes add the same two numbers."""
    run = tmp_path / "run"
    run_all(zygote, TRAIN, run, **whole_run(tiny_data, run, fsdp=None))
    for name in ("model_final.pth", "model_ema_final.pth"):
        ours, theirs = load(reference, name)["model"], load(run, name)["model"]
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    moments = load(reference)["optimizer"]["state"]
    expected = load(run)["optimizer"]["state"]
    for number, values in expected.items():
        assert all(torch.equal(moments[number][key], values[key]) for key in values)
    assert [line["bbox/AP"] for line in metrics(reference) if "bbox/AP" in line] == [7.0] * 3


def test_killed_and_resumed_equals_uninterrupted(
    zygote: Zygote, tiny_data: Path, reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = whole_run(tiny_data, run)
    pause = {"folder": str(tmp_path), "place": "step", "iteration": 7, "rank": 1}
    pids = start_all(zygote, TRAIN, run, 2, **job, pause=pause)
    wait_for((tmp_path / "waiting").exists)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        zygote.wait(pid)
    run_all(zygote, TRAIN, run, **job, resume="required")
    assert_same_run(run, reference)


def test_one_process_continues_what_two_sharded(
    zygote: Zygote, tiny_data: Path, tmp_path: Path
) -> None:
    """And two shard what one began."""
    run = tmp_path / "run"
    job = whole_run(tiny_data, run)
    run_all(zygote, TRAIN, run, **job, max_iter=4)
    assert zygote.run(TRAIN, tmp_path / "log", **job, resume="required", max_iter=8) == 0
    assert "one process has nothing to share" in (tmp_path / "log").read_text()
    run_all(zygote, TRAIN, run, **job, resume="required")
    assert load(run)["iteration"] == 11


@pytest.fixture(scope="module")
def sharded_files(
    zygote: Zygote, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run that was killed in its eighth iteration, with checkpoints of two parts."""
    place = tmp_path_factory.mktemp("sharded")
    run = place / "run"
    job = whole_run(tiny_data, run, fsdp={"checkpoints": "sharded"})
    pause = {"folder": str(place), "place": "step", "iteration": 7, "rank": 1}
    pids = start_all(zygote, TRAIN, run, 2, **job, pause=pause)
    wait_for((place / "waiting").exists)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        zygote.wait(pid)
    return run


def copy_of(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "run"))


def test_every_process_writes_its_own_part(sharded_files: Path) -> None:
    folder = sharded_files / "model_0000005.dcp"
    manifest = json.loads((sharded_files / "model_0000005.json").read_text())
    names = sorted(path.name for path in folder.iterdir())
    assert sorted(manifest["shards"]) == names == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    light = load(sharded_files, "model_0000005.pth")
    assert light["model"]["out.weight"] == "sharded:model/out.weight"
    assert isinstance(light["model"]["norm.running_mean"], torch.Tensor)


def test_parts_are_resumed_as_if_whole(
    zygote: Zygote, tiny_data: Path, reference: Path, sharded_files: Path, tmp_path: Path
) -> None:
    run = copy_of(sharded_files, tmp_path)
    job = whole_run(tiny_data, run, fsdp={"checkpoints": "sharded"})
    run_all(zygote, TRAIN, run, **job, resume="required")
    assert_same_run(run, reference)
    assert not (run / "model_0000011.dcp").exists()


def test_one_process_reads_the_parts_of_two(
    zygote: Zygote, tiny_data: Path, reference: Path, sharded_files: Path, tmp_path: Path
) -> None:
    """And ends at once, where that is asked for, with the whole file that was not there."""
    run = copy_of(sharded_files, tmp_path)
    job = whole_run(tiny_data, run, fsdp={"checkpoints": "sharded"}, max_iter=6)
    assert zygote.run(TRAIN, tmp_path / "log", **job, resume="required") == 0
    expected = load(reference, "model_0000005.pth")
    for name in ("model_final.pth", "model_0000005.pth"):
        found = load(run, name)
        for key in ("model", "ema"):
            assert all(torch.equal(found[key][k], v) for k, v in expected[key].items())
    assert found["iteration"] == 5
    assert not (run / "model_0000005.dcp").exists()


@pytest.mark.parametrize("fault", ["damaged", "missing"])
def test_a_faulty_part_rejects_its_checkpoint(
    sharded_files: Path, tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = copy_of(sharded_files, tmp_path)
    part = run / "model_0000005.dcp" / "__1_0.distcp"
    content = part.read_bytes()
    part.unlink()
    if fault == "damaged":
        part.write_bytes(content[:-1] + b"?")
    found = CheckpointStore(run).newest_verified()
    assert found is not None
    assert found.name == "model_0000004.pth"
    assert "__1_0.distcp" in caplog.text


def test_an_index_that_would_run_code_is_refused(sharded_files: Path, tmp_path: Path) -> None:
    run = copy_of(sharded_files, tmp_path)
    path = run / "model_0000005.pth"
    (run / "model_0000005.dcp" / ".metadata").write_bytes(pickle.dumps(os.system))
    with pytest.raises(WeightsError, match=r"asks for the Python object `posix\.system`"):
        read_shards(path, load(run, path.name), lambda _: torch.zeros(1))


def test_what_an_interrupted_save_left_is_removed(sharded_files: Path, tmp_path: Path) -> None:
    run = copy_of(sharded_files, tmp_path)
    (run / "model_0000007.dcp.tmp-shards").mkdir()
    (run / "model_0000009.dcp").mkdir()
    CheckpointStore(run).remove_debris()
    assert not list(run.glob("model_0000007*")) + list(run.glob("model_0000009*"))
    assert (run / "model_0000005.dcp").is_dir()
    remove_run(run)
    assert not list(run.glob("model_*"))


def test_settings() -> None:
    def read(**fsdp: Any) -> ShardSettings | None:
        return read_shard_settings(OmegaConf.create({"train": {"fsdp": fsdp}}))

    assert read_shard_settings(OmegaConf.create({"train": {}})) is None
    assert read(enabled=False, shard_size=2) is None
    found = read(shard_size=2, param_dtype="bf16", reshard_after_forward=False)
    assert found == ShardSettings(
        shard_size=2, param_dtype=torch.bfloat16, reshard_after_forward=False
    )


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"fsdp": "yes"}, r"train\.fsdp: expected keys such as enabled"),
        ({"fsdp": {"size": 2}}, r"unknown size; there are enabled, shard_size, "),
        ({"fsdp": {"enabled": 1}}, r"train\.fsdp\.enabled: expected true or false, got 1"),
        ({"fsdp": {"shard_size": 0}}, r"shard_size: expected a number of processes, .*, got 0"),
        ({"fsdp": {"param_dtype": "fp16"}}, r"param_dtype: expected bf16, or null"),
        ({"fsdp": {"checkpoints": "dcp"}}, r"checkpoints: expected whole or sharded, got 'dcp'"),
        ({**FSDP, "amp": {"enabled": True, "dtype": "fp16"}}, r"use train\.amp\.dtype=bf16"),
    ],
)
def test_wrong_settings_are_named(train: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_shard_settings(OmegaConf.create({"train": train}))


def test_graphs_of_weights_that_move_are_refused() -> None:
    train = {**FSDP, "cuda_graphs": True, "compile": True}
    settings = read_settings(OmegaConf.create({"train": train}))
    with pytest.raises(RecipeError, match=r"set train\.cuda_graphs=false or train\.fsdp"):
        apply_block_options(torch.nn.Linear(1, 1), settings, torch.device("cpu"))


def test_processes_that_cannot_be_divided_are_named(zygote: Zygote, tmp_path: Path) -> None:
    job = {"folder": str(tmp_path / "run"), "name": "x", "train": {"fsdp": {"shard_size": 3}}}
    pids = start_all(zygote, STEPS, tmp_path / "run", 2, **job)
    assert [zygote.wait(pid) for pid in pids] == [2, 2]
    message = "train.fsdp.shard_size=3 does not divide 2 processes; take one of 1, 2, or null"
    assert message in (tmp_path / "log0").read_text()
