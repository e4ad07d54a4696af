# SPDX-License-Identifier: Apache-2.0
"""What the files of a run folder say: recipe, first weights, length, epochs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.analysis.toy_runs import make_run
from vitdet_d2.analysis.run_facts import RunFacts, read_facts

LOG = (
    "[11/21 10:52:43] vitdet_d2.data.prepare INFO: data set mine_train: /d/a.json: 500 images: 400 "
    "with instances, 0 with crowds only, 0 with only invalid annotations, 100 without annotations\n"
)


def test_what_a_run_leaves(tmp_path: Path) -> None:
    facts = read_facts(make_run(tmp_path / "run", {100: 1.0}, recipe="projects/quickstart.py"))
    assert facts == RunFacts(
        recipe="quickstart",
        initialisation="mae_vit_b",
        max_iter=100,
        batch=8,
        images_per_epoch=4000,
    )
    assert facts.epochs(250) == 0.5


def test_own_data(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {}, data="mine_train", log=LOG)
    assert read_facts(folder).images_per_epoch == 400
    assert read_facts(folder, 1000).images_per_epoch == 1000
    (folder / "log.txt").unlink()
    facts = read_facts(folder)
    assert (facts.recipe, facts.images_per_epoch, facts.epochs(5)) == (None, None, None)


def test_a_run_of_so_many_epochs_says_how_long_one_is(tmp_path: Path) -> None:
    # 100 epochs of COCO's 117266 images with objects, at batch 64.
    folder = make_run(
        tmp_path / "run", {}, max_iter=183229, epochs=100, batch=32, data="coco_2017_train"
    )
    facts = read_facts(folder)
    assert facts.images_per_epoch == 117267
    assert facts.epochs(183229) == pytest.approx(100, abs=1e-3)
    assert read_facts(folder, 118_000).images_per_epoch == 118_000


@pytest.mark.parametrize("epochs", [0, -1, True, "100", float("inf"), float("nan"), 1e-300, 1e300])
def test_epochs_that_are_no_length(tmp_path: Path, epochs: object) -> None:
    folder = make_run(tmp_path / "run", {}, epochs=epochs)
    assert read_facts(folder).images_per_epoch == 4000


@pytest.mark.parametrize(
    ("init", "wanted"), [("", "random"), ("/a/b/mae.pth", "mae.pth"), ("random", "random")]
)
def test_first_weights(tmp_path: Path, init: str, wanted: str) -> None:
    assert read_facts(make_run(tmp_path / "run", {}, init=init)).initialisation == wanted


@pytest.mark.parametrize("config", ["", "[1]", "{", '{"train": 3, "dataloader": {"train": []}}'])
def test_configurations_that_say_nothing(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    assert read_facts(tmp_path) == RunFacts()


def test_a_batch_that_is_no_number(tmp_path: Path) -> None:
    facts = read_facts(make_run(tmp_path / "run", {}, batch="${train.global_batch}"))
    assert (facts.batch, facts.epochs(10)) == (None, None)
