# SPDX-License-Identifier: Apache-2.0
"""``vitdet errors``: exit codes, what goes where, and that nothing is done for a wrong command."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluation.toy_tide import random_case, with_masks
from vitdet_d2 import runtime
from vitdet_d2.engine import cli

TRUTH, FOUND = random_case(4, crowds=True)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("run/inference").mkdir(parents=True)
    Path("run/inference/coco_instances_results.json").write_text(json.dumps(with_masks(FOUND)))
    Path("val.json").write_text(json.dumps(TRUTH))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, str, str]:
    code = cli.main(["errors", *line.split()])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_table_json_csv_and_plot(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "run val.json --csv e.csv --plot e.png")
    assert (code, err) == (0, "")
    assert "localisation" in out
    assert Path("e.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = run(capsys, "run val.json --json --per-class")
    content = json.loads(out)
    assert (code, content["iou_type"], len(content["classes"])) == (0, "bbox", 4)
    with open("e.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["AP"]) == content["AP"]
    assert float(row["missed_dAP"]) == content["errors"]["missed"]["dAP"]


def test_masks_and_thresholds(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "run/inference val.json --iou-type segm --positive-iou 0.75 --background-iou 0.2"
    code, out, _ = run(capsys, f"{line} --json")
    content = json.loads(out)
    assert (code, content["iou_type"]) == (0, "segm")
    assert (content["positive_iou"], content["background_iou"]) == (0.75, 0.2)
    _, out, _ = run(capsys, "run val.json --json")
    assert json.loads(out)["AP"] > content["AP"]


def test_notes_go_to_the_error_stream(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("none.json").write_text("[]")
    code, out, err = run(capsys, "none.json val.json --json")
    content = json.loads(out)
    assert (code, content["AP"], content["errors"]["background"]["count"]) == (0, 0, 0)
    assert err.startswith("note: none.json: no detections at all: AP is 0")
    assert content["notes"][0] in err


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("run", 2, "the following arguments are required: ANNOTATIONS"),
        ("run val.json --positive-iou 0.1", 2, "0 < background < positive <= 1"),
        ("run val.json --positive-iou nan", 2, "0 < background < positive <= 1"),
        ("run val.json --background-iou 0", 2, "0 < background < positive <= 1"),
        ("run val.json --max-detections 0", 2, "--max-detections: expected at least 1"),
        ("run val.json --iou-type keypoints", 2, "invalid choice: 'keypoints'"),
        ("run val.json --csv no/e.csv", 2, "no is no folder"),
        ("run val.json --csv run", 2, "run is a folder; name a file"),
        ("run val.json --plot e.gif", 2, "expected a picture that ends in"),
        ("val.json run/inference/coco_instances_results.json", 3, "PREDICTIONS ANNOTATIONS"),
        ("nothing.json val.json", 3, "predictions nothing.json not found"),
        ("run nothing.json", 3, "annotation file nothing.json not found"),
        ("run run", 3, "cannot be read"),
    ],
)
def test_wrong_commands(
    files: Path, capsys: pytest.CaptureFixture[str], line: str, code: int, message: str
) -> None:
    got, out, err = run(capsys, line)
    assert (got, out) == (code, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.skipif(
    runtime.current().name != "bundled", reason="an installed Detectron2 is imported, to be sure"
)
def test_help_teaches_without_torch() -> None:
    code = (
        "import sys; from vitdet_d2.engine import cli\n"
        "try: cli.main(['errors', '--help'])\n"
        "finally: assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout
    assert "duplicate" in done.stdout
