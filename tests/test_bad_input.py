# SPDX-License-Identifier: Apache-2.0
"""What a user does wrong, through the command line: one line that names the thing and the cure.

Every case also shows that nothing was lost: no file that existed has changed, no model was built
before the mistake was told, and the corrected command runs in the same folder.
"""

from __future__ import annotations

import json
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.tiny_run import write_data
from tests.engine.zygote import Zygote
from tests.zoo.bad_server import BadServer
from vitdet_d2.data import prepare
from vitdet_d2.engine import cli, evaluate, train
from vitdet_d2.engine.checkpoint_store import CheckpointStore

RECIPE = """
from tests.engine.tiny_run import config

_all = config({data!r}, "run", seed=3, eval_period=0, log_period=1)
model, dataloader, optimizer = _all.model, _all.dataloader, _all.optimizer
lr_multiplier, train, data = _all.lr_multiplier, _all.train, _all.data
"""
SHORT = ("--config-file", "recipe.py", "train.max_iter=4")


class Place:
    """A folder with a recipe, data, and a command line to use them."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.run = folder / "run"
        self._capsys = capsys
        self.data.mkdir()
        write_data(self.data)
        (folder / "recipe.py").write_text(RECIPE.format(data=str(self.data)))

    def files(self) -> dict[Path, bytes]:
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return {path: path.read_bytes() for path in files if not path.name.startswith("log.txt")}

    def refuse(self, code: int, *parts: str, argv: tuple[str, ...]) -> None:
        """Run `vitdet`; it must end with `code` and one line that holds all `parts`."""
        before = self.files()
        self._capsys.readouterr()
        assert cli.main(argv) == code
        shown = self._capsys.readouterr()
        assert_one_line(shown.err, *parts)
        assert "Traceback" not in shown.out
        after = self.files()
        assert {path: after.get(path) for path in before} == before

    def change_annotations(self, change: Any) -> None:
        path = self.data / "tiny.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))


def assert_one_line(text: str, *parts: str) -> None:
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    for part in parts:
        assert part in text


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Place]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITDET_D2_CACHE", str(tmp_path / "cache"))
    with warnings.catch_warnings():  # the command line silences some, which here are errors
        yield Place(tmp_path, capsys)


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("a model was built before the mistake was told")

    monkeypatch.setattr(train, "build_model", fail)
    monkeypatch.setattr(evaluate, "for_inference", fail)


# ------------------------------------------------------------------ recipe and arguments

USAGE = {
    "--config-file vitdet_bb": (
        "recipe 'vitdet_bb' not found, neither as a file nor as a name",
        "did you mean vitdet_b",
    ),
    "--config-file folder/none.py": ("recipe 'folder/none.py' not found",),
    "--config-file broken.py": ("broken.py:3: syntax error",),
    "--config-file failing.py": ("failing.py:2: ZeroDivisionError",),
    "--config-file recipe.py train.max_itr=9": (
        "the recipe has no key 'train.max_itr'",
        "did you mean 'train.max_iter'?",
        "+train.max_itr=9 adds",
    ),
    "--config-file recipe.py trainn.max_iter=9": ("did you mean 'train.max_iter'?",),
    "--config-file recipe.py train.max_iter=soon": ("train.max_iter is an integer", "'soon'"),
    "--config-file recipe.py --resum": ("--resum", "see `vitdet train --help`"),
    "--config-file recipe.py --num-gpus 99": (
        "--num-gpus 99, but this machine has no GPUs",
        "ask for none (--num-gpus 0 runs on the CPU)",
    ),
    "--config-file recipe.py --resume": (
        "--resume: nothing to resume, run holds no checkpoint",
        "use --resume=auto, which starts a run where there is none",
    ),
}


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("line", USAGE)
def test_wrong_usage(place: Place, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (place.folder / "broken.py").write_text("a = 1\n\nmodel = dict(a=1\n")
    (place.folder / "failing.py").write_text("a = 1\nb = a / 0\n")
    place.refuse(2, *USAGE[line], argv=("train", *line.split()))
    assert not place.run.exists()


def test_more_gpus_than_the_machine_has(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    argv = ("train", *SHORT, "--num-gpus", "3")
    place.refuse(2, "--num-gpus 3, but this machine has 2 GPUs", "ask for at most 2", argv=argv)
    assert not place.run.exists()


# ------------------------------------------------------------------ data


def _category_outside(content: dict[str, Any]) -> None:
    content["annotations"][4]["category_id"] = 9


def _broken_json(place: Place) -> None:
    path = place.data / "tiny.json"
    path.write_text(path.read_text()[:-20])


REGISTERED = ("data.train_json=null", "data.train_images=null")
DATA: dict[str, tuple[Any, tuple[str, ...], tuple[str, ...]]] = {
    "data set folder": (
        None,
        ("data.train_json=nowhere/mine",),
        ("data.train_json: annotation file nowhere/mine not found", "correct the path"),
    ),
    "annotation file": (
        lambda place: (place.data / "tiny.json").unlink(),
        (),
        ("data/tiny.json not found", "correct the path"),
    ),
    "annotation file cut off": (
        _broken_json,
        (),
        ("tiny.json is no valid JSON", "download or export it"),
    ),
    "image folder": (
        None,
        ("data.train_images=nowhere",),
        ("image folder nowhere of", "tiny.json not found", "correct the path"),
    ),
    "image": (
        lambda place: (place.data / "5.png").unlink(),
        (),
        ("1 of 7 images", ": 5.png; add them"),
    ),
    "category": (
        lambda place: place.change_annotations(_category_outside),
        (),
        ("tiny.json", "category_id 9", "annotation 5"),
    ),
    "COCO": (
        None,
        (*REGISTERED, "dataloader.train.dataset.names=coco_2017_train"),
        ("'coco_2017_train'", "instances_train2017.json not found", "set DETECTRON2_DATASETS"),
    ),
    "data set name": (
        None,
        (*REGISTERED, "dataloader.train.dataset.names=coco_2017_trein"),
        ("'coco_2017_trein' is not registered", "did you mean coco_2017_train", "data.train_json"),
    ),
}


@pytest.mark.parametrize("case", DATA)
def test_bad_data_is_told_before_any_work(place: Place, case: str, no_work: None) -> None:
    spoil, overrides, parts = DATA[case]
    if spoil is not None:
        spoil(place)
    place.refuse(3, *parts, argv=("train", *SHORT, *overrides))
    assert all(part in (place.run / "log.txt").read_text() for part in parts)
    # The folder is free for the corrected command.
    assert [path.name for path in place.run.iterdir()] == ["log.txt"]


def test_corrected_command_runs_in_the_same_folder(place: Place) -> None:
    argv = ("train", *SHORT)
    place.refuse(3, "nowhere.json not found", argv=(*argv, "data.val_json=nowhere.json"))
    assert cli.main(argv) == 0
    assert (place.run / "model_final.pth").is_file()


# ------------------------------------------------------------------ an existing run


def test_output_folder_of_another_run(place: Place, no_work: None) -> None:
    place.run.mkdir()
    (place.run / "model_0000005.pth").write_bytes(b"hours of work")
    argv = ("train", *SHORT)
    cures = ("--resume", "--overwrite", "train.output_dir=FOLDER")
    place.refuse(2, "output folder run already holds a run (model_0000005.pth)", *cures, argv=argv)
    assert len(list(place.run.iterdir())) == 1


def test_resume_of_damaged_checkpoints(place: Place, no_work: None) -> None:
    place.run.mkdir()
    (place.run / "model_0000005.pth").write_bytes(b"cut off")
    argv = ("train", *SHORT, "--resume")
    place.refuse(2, "--resume: ", "run", "model_0000005.pth", "--resume=auto", argv=argv)


def test_class_count_differs_in_evaluation(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(("train", *SHORT)) == 0

    def fail(*_: Any) -> None:
        raise AssertionError("the evaluation was started")

    monkeypatch.setattr(evaluate, "inference_on_dataset", fail)
    extra = {"id": 3, "name": "oval"}
    place.change_annotations(lambda content: content["categories"].append(extra))
    argv = ("eval", "--config-file", "recipe.py", "--weights", "run/model_final.pth")
    parts = ("run/model_final.pth: trained on 2 classes, the test data has 3", "same categories")
    place.refuse(3, *parts, argv=(*argv, "train.output_dir=other"))
    missing = (*argv[:-1], "none.pth", "train.output_dir=other")
    place.refuse(3, "none.pth: does not exist", "give the path", argv=missing)


# ------------------------------------------------------------------ NaN


def assert_last_good_checkpoint(run: Path) -> None:
    """That of iteration 1, before the NaN in iteration 3, with finite weights."""
    store = CheckpointStore(run)
    newest = store.newest_verified()
    assert newest == run / "model_0000001.pth"
    state = store.load(newest)
    assert state["iteration"] == 1
    assert all(bool(torch.isfinite(value).all()) for value in state["model"].values())
    assert not list(run.glob("*.tmp-*"))
    assert not (run / "model_final.pth").exists()


def nan_recipe(place: Place, rank: int) -> tuple[str, ...]:
    text = RECIPE.replace("seed=3", f"nan_at=(3, {rank}), seed=3")
    (place.folder / "recipe.py").write_text(text.format(data=str(place.data)))
    return ("--config-file", "recipe.py", "train.max_iter=8", f"train.output_dir={place.run}")


def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(place: Place) -> None:
    argv = ("train", *nan_recipe(place, rank=0))
    parts = (
        "not finite at iteration 3 on rank 0 of 1",
        "loss_place=nan",
        f"last good checkpoint: {place.run}/model_0000001.pth",
        "continue with --resume",
    )
    place.refuse(1, *parts, argv=argv)
    assert_last_good_checkpoint(place.run)
    # The cure: here the model without its fault.
    (place.folder / "recipe.py").write_text(RECIPE.format(data=str(place.data)))
    assert cli.main((*argv, "--resume")) == 0
    assert (place.run / "model_0000007.pth").is_file()


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


def test_nan_loss_on_one_rank_stops_every_rank(place: Place, zygote: Zygote) -> None:
    argv = [*nan_recipe(place, rank=1), "--num-gpus", "0"]
    argv[1] = str(place.folder / "recipe.py")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logs = [place.folder / f"rank{rank}" for rank in range(2)]
    pids = [
        zygote.start(
            "tests.bad_input_job:run", logs[rank], argv=argv, rank=rank, world_size=2, port=port
        )
        for rank in range(2)
    ]
    assert [zygote.wait(pid, 60) for pid in pids] == [1, 1]
    errors = [
        [line for line in log.read_text().splitlines() if line.startswith("error: ")]
        for log in logs
    ]
    # Both stopped of it; one says so.
    [line], [] = errors
    assert_one_line(f"{line}\n", "not finite at iteration 3 on rank 1 of 2", "model_0000001.pth")
    assert not any("Traceback" in log.read_text() for log in logs)
    assert_last_good_checkpoint(place.run)


def fail_to_prepare(*_: Any, **__: Any) -> None:
    raise AssertionError("data was read before the mistake was told")


def test_local_weights_that_cannot_be_had(
    place: Place, monkeypatch: pytest.MonkeyPatch, no_work: None
) -> None:
    monkeypatch.setattr(prepare, "prepare_datasets", fail_to_prepare)
    place.refuse(
        3, "gone.pth: does not exist", argv=("train", *SHORT, "train.init_checkpoint=gone.pth")
    )
    argv = ("eval", "--config-file", "recipe.py", "--weights")
    place.refuse(3, "vitdt_b: does not exist", "did you mean vitdet_b", argv=(*argv, "vitdt_b"))


def test_bad_data_is_told_before_a_download(
    place: Place, monkeypatch: pytest.MonkeyPatch, no_work: None
) -> None:
    monkeypatch.setenv("VITDET_D2_ZOO_URL", "http://127.0.0.1:9")
    spoil, overrides, parts = DATA["annotation file"]
    assert spoil is not None
    spoil(place)
    argv = ("train", *SHORT, *overrides, "train.init_checkpoint=vitdet_b")
    place.refuse(3, *parts, argv=argv)


def test_weights_of_the_web_that_cannot_be_had(
    place: Place, server: BadServer, monkeypatch: pytest.MonkeyPatch, no_work: None
) -> None:
    argv = ("eval", "--config-file", "recipe.py", "--weights")
    place.refuse(3, "answered 404", "mirror", argv=(*argv, "vitdet_b"))
    page = f"{server.address}/a.pth"
    server.behaviours = ["html"]
    place.refuse(3, "a.pth", "web page", "nothing was kept", argv=(*argv, page))
    monkeypatch.setenv("VITDET_D2_ZOO_URL", "http://127.0.0.1:9")
    place.refuse(1, "cannot be reached", "https_proxy", "give its path", argv=(*argv, "vitdet_b"))
    monkeypatch.setenv("VITDET_D2_OFFLINE", "1")
    place.refuse(1, "not in the cache", "VITDET_D2_OFFLINE", argv=(*argv, "vitdet_b"))
