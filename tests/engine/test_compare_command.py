# SPDX-License-Identifier: Apache-2.0
"""``vitdet compare``: exit codes, what goes where, and that wrong commands leave no file."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.analysis.toy_runs import make_run
from vitdet_d2 import runtime
from vitdet_d2.engine import cli


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_run(Path("mae"), {50: 20.0, 100: 48.0})
    make_run(Path("beit"), {50: 25.0, 80: 40.0}, trained=90, init="beit_b")
    make_run(Path("none"), {}, trained=10)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, str, str]:
    code = cli.main(["compare", *line.split()])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_table_files_and_plot(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = "--markdown t.md --csv t.csv --plot t.png"
    code, out, err = run(capsys, f"mae B=beit {files}")
    assert code == 0
    assert Path("t.md").read_text() == out
    assert "| mae | quickstart | mae_vit_b " in out
    assert err == (
        "note: B: not at its end: after 90 of 100 iterations, the last evaluation stands for the "
        "final one\n"
    )
    assert Path("t.png").read_bytes().startswith(b"\x89PNG")
    with open("t.csv", newline="") as file:
        assert [row["bbox/AP"] for row in csv.DictReader(file)] == ["20.0", "48.0", "25.0", "40.0"]
    code, out, _ = run(capsys, "mae beit --json --metric segm/APr --images-per-epoch 800")
    content = json.loads(out)
    assert (code, content["metrics"], content["runs"][0]["epochs"]) == (0, ["segm/APr"], 1.0)


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("", 2, "the following arguments are required: RUN"),
        ("mae --images-per-epoch 0", 2, "--images-per-epoch: expected at least 1"),
        ("mae --metric AP", 2, "--metric AP: no run has it; there are bbox/AP"),
        ("mae --published nothing", 2, "nothing"),
        ("mae a=mae a=beit", 2, "two runs are named 'a'"),
        ("mae --plot t.txt --csv t.csv", 2, "expected a picture that ends in"),
        ("mae --markdown no/t.md", 2, "no is no folder"),
        ("mae --markdown t.csv --csv ./t.csv", 2, "t.csv is named for two outputs"),
        ("none", 3, "nothing to compare: no run has an evaluation"),
        (".", 3, "the folder has no metrics.json"),
        ("mae/config.json", 3, "no line is a JSON object with an 'iteration'"),
    ],
)
def test_wrong_commands(
    runs: Path, capsys: pytest.CaptureFixture[str], line: str, code: int, message: str
) -> None:
    got, out, err = run(capsys, line)
    assert (got, out) == (code, "")
    assert err.startswith("error: ")
    assert message in err
    assert not list(runs.glob("t.*"))


@pytest.mark.skipif(
    runtime.current().name != "bundled", reason="an installed Detectron2 is imported, to be sure"
)
def test_help_teaches_without_torch() -> None:
    code = (
        "import sys; from vitdet_d2.engine import cli\n"
        "try: cli.main(['compare', '--help'])\n"
        "finally: assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout
    assert "--published" in done.stdout
