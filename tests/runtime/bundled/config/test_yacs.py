# SPDX-License-Identifier: Apache-2.0
"""The yacs tree: files, bases, versions, what is read safely."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from detectron2 import config
from detectron2.config import (
    CfgNode,
    downgrade_config,
    get_cfg,
    global_cfg,
    set_global_cfg,
    upgrade_config,
)


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_each_call_returns_a_copy() -> None:
    first, second = get_cfg(), get_cfg()
    first.MODEL.RPN.IN_FEATURES.append("p2")
    first.SOLVER.MAX_ITER = 1
    assert second.MODEL.RPN.IN_FEATURES == ["res4"]
    assert second.SOLVER.MAX_ITER == 40000


def test_file_over_bases_relative_to_each_file(tmp_path: Path) -> None:
    write(tmp_path, "base/root.yaml", "VERSION: 2\nSOLVER: {BASE_LR: 1e-4, MAX_ITER: 5}\n")
    write(tmp_path, "base/mid.yaml", "_BASE_: root.yaml\nSOLVER:\n  MAX_ITER: 6\n  STEPS: (3, 4)\n")
    write(tmp_path, "other.yaml", "MODEL: {MASK_ON: true}\nSOLVER: {MAX_ITER: 7}\n")
    top = write(tmp_path, "top.yaml", "_BASE_: [base/mid.yaml, other.yaml]\nSOLVER: {GAMMA: 0.5}\n")
    cfg = get_cfg()
    cfg.merge_from_file(top)
    solver = cfg.SOLVER
    assert (solver.BASE_LR, solver.MAX_ITER, solver.STEPS, solver.GAMMA) == (1e-4, 7, (3, 4), 0.5)
    assert cfg.MODEL.MASK_ON


def test_keys_of_parts_that_are_not_bundled_merge(tmp_path: Path) -> None:
    text = (
        "VERSION: 2\nMODEL:\n  KEYPOINT_ON: true\n  RESNETS: {DEPTH: 101, NORM: GN}\n"
        "  RETINANET: {NUM_CLASSES: 5}\n  PANOPTIC_FPN: {COMBINE: {ENABLED: false}}\n"
        "  ROI_KEYPOINT_HEAD: {NUM_KEYPOINTS: 4}\nTEST: {AUG: {MAX_SIZE: 9}}\n"
    )
    cfg = get_cfg()
    cfg.merge_from_file(write(tmp_path, "a.yaml", text))
    assert cfg.MODEL.RESNETS.DEPTH == 101
    assert cfg.MODEL.PANOPTIC_FPN.COMBINE.ENABLED is False


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("MODEL: {MASK_IN: true}", KeyError, r"MODEL\.MASK_IN"),
        ("MODEL: {MASK_ON: often}", ValueError, r"MODEL\.MASK_ON"),
        ("SEED: 1\nSEED: 2", ValueError, r"'SEED' twice"),
        ("SEED: !!python/object/apply:os.getpid []", ValueError, "read safely"),
        ("- 1", ValueError, "expected keys with values, got a list"),
        ("VERSION: 3", ValueError, "is of version 3, this Detectron2 knows up to 2"),
        ("_BASE_: a.yaml", ValueError, "in a circle"),
        ("_BASE_: b.yaml\nSEED: {A: 1}", ValueError, "SEED is a mapping, but 4"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    write(tmp_path, "b.yaml", "SEED: 4")
    cfg = get_cfg()
    with pytest.raises(error, match=message):
        cfg.merge_from_file(write(tmp_path, "a.yaml", text))
    assert cfg == get_cfg()


def test_missing_file() -> None:
    with pytest.raises(FileNotFoundError, match=r"'/nowhere/a\.yaml' does not exist"):
        get_cfg().merge_from_file("/nowhere/a.yaml")


def test_empty_file_changes_nothing(tmp_path: Path) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(write(tmp_path, "a.yaml", "# nothing\n"))
    assert cfg == get_cfg()


def test_dump_is_read_back_as_the_same(tmp_path: Path) -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.STEPS", "(1, 2)", "INPUT.FORMAT", "RGB", "SOLVER.GAMMA", "1e-3"])
    again = get_cfg()
    again.merge_from_file(write(tmp_path, "a.yaml", cfg.dump()))
    # Tuples in tuples come back as lists in tuples.
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
    assert again.SOLVER.GAMMA == 1e-3


def test_frozen_until_defrosted() -> None:
    cfg = get_cfg()
    cfg.freeze()
    with pytest.raises(AttributeError, match="immutable"):
        cfg.MODEL.DEVICE = "cpu"
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    assert cfg.clone().MODEL.DEVICE == "cpu"


def test_global_cfg_is_one_object() -> None:
    cfg = get_cfg()
    cfg.GLOBAL.HACK = 7.0
    set_global_cfg(cfg)
    try:
        assert global_cfg is config.global_cfg
        assert global_cfg.GLOBAL.HACK == 7.0
    finally:
        set_global_cfg(CfgNode())


@pytest.mark.parametrize("meta_architecture", ["GeneralizedRCNN", "RetinaNet"])
def test_versions_there_and_back(meta_architecture: str) -> None:
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = meta_architecture
    cfg.MY_KEY = CfgNode({"A": 1})
    old = downgrade_config(cfg, to_version=0)
    assert old.MODEL.RPN_HEAD.NAME == "StandardRPNHead"
    assert "ANCHOR_GENERATOR" in old.MODEL  # its other keys stay
    assert "SIZES" not in old.MODEL.ANCHOR_GENERATOR
    assert "AUG_ON" in old.TEST
    assert "AUG" not in old.TEST  # a section goes with its last key
    assert upgrade_config(old) == cfg


def test_an_old_file_is_translated(tmp_path: Path) -> None:
    text = "MODEL: {WEIGHT: w.pth, RPN: {ANCHOR_SIZES: [[8]]}}\nTEST: {AUG_FLIP: false}\n"
    cfg = get_cfg()
    cfg.merge_from_file(write(tmp_path, "a.yaml", text))
    assert cfg.MODEL.WEIGHTS == "w.pth"
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[8]]
    assert cfg.TEST.AUG.FLIP is False
    assert (cfg.VERSION, "ANCHOR_SIZES" in cfg.MODEL.RPN) == (2, False)


def test_versions_go_one_way() -> None:
    cfg = get_cfg()
    with pytest.raises(ValueError, match="cannot downgrade a configuration of version 2 to 3"):
        downgrade_config(cfg, to_version=3)
    with pytest.raises(ValueError, match="cannot upgrade a configuration of version 2 to 1"):
        upgrade_config(cfg, to_version=1)
    with pytest.raises(ValueError, match="needs a configuration of version 2, this one has 1"):
        downgrade_config(cfg, to_version=1).merge_from_file(__file__)
