# SPDX-License-Identifier: Apache-2.0
"""The commands: exit codes, one-line errors, what is handed to the engine."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from vitdet_d2 import environment
from vitdet_d2.engine import cli, evaluate, train
from vitdet_d2.errors import DataError, StoppedBySignal, WeightsError

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
model = {'_target_': 'torch.nn.Identity'}
dataloader = {'a': 1}
optimizer = {'a': 1}
lr_multiplier = {'a': 1}
train = {'device': 'cuda', 'max_iter': 5}
"""


class Engine:
    """Records what it is asked to do; fails if told so."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, DictConfig, str | None]] = []
        self.error: BaseException | None = None

    def do_train(
        self, cfg: DictConfig, *, resume: str, on_accepted: Callable[[DictConfig], object] | None
    ) -> None:
        self._record("train", cfg, resume)
        if on_accepted is not None:
            on_accepted(cfg)

    def do_eval(self, cfg: DictConfig) -> dict[str, Any]:
        self._record("eval", cfg, None)
        return {}

    def _record(self, what: str, cfg: DictConfig, resume: str | None) -> None:
        self.calls.append((what, cfg.copy(), resume))
        if self.error is not None:
            raise self.error


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    recorder = Engine()
    monkeypatch.setattr(train, "do_train", recorder.do_train)
    monkeypatch.setattr(evaluate, "do_eval", recorder.do_eval)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield recorder
    for name in ("vitdet_d2", "detectron2", "fvcore"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.py").write_text(RECIPE)
    return "recipe.py"


def test_train_resolves_saves_and_calls(engine: Engine, recipe: str, tmp_path: Path) -> None:
    argv = ["train", "--config-file", recipe, "train.max_iter=7", "train.output_dir=out"]
    assert cli.main(argv) == 0
    [(what, cfg, resume)] = engine.calls
    assert (what, resume) == ("train", "never")
    assert (cfg.train.max_iter, cfg.train.device, cfg.train.output_dir) == (7, "cpu", "out")
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    # What runs here need not be what runs elsewhere.
    assert (saved["train"]["max_iter"], saved["train"]["device"]) == (7, "cuda")
    assert "Recipe recipe.py train.max_iter=7" in (tmp_path / "out" / "log.txt").read_text()


def test_train_net_is_the_same(engine: Engine, recipe: str, capsys: Any) -> None:
    assert cli.main_train(["--config-file", recipe]) == 0
    assert engine.calls[0][0] == "train"
    assert cli.main_train(["--num-gpus"]) == 2
    assert "see `train_net.py --help`" in capsys.readouterr().err


def test_used_folder_then_resume_then_overwrite_then_increment(
    engine: Engine, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", "--config-file", recipe, "train.output_dir=out"]
    assert cli.main(argv) == 0
    assert cli.main(argv) == 2
    assert "error: output folder out already holds a run (config.json)" in capsys.readouterr().err
    assert cli.main([*argv, "--resume"]) == 2
    assert "nothing to resume" in capsys.readouterr().err
    (tmp_path / "out" / "model_0000001.pth").write_text("")
    assert cli.main([*argv, "--resume", "train.max_iter=9"]) == 0
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "Recipe changed since the last start: train.max_iter: 5 -> 9" in log
    assert cli.main([*argv, "--overwrite"]) == 0
    assert not (tmp_path / "out" / "model_0000001.pth").exists()
    assert cli.main([*argv, "--auto-increment"]) == 0
    assert [call[2] for call in engine.calls] == ["never", "required", "never", "never"]
    assert engine.calls[-1][1].train.output_dir == "out_2"


def test_a_refused_run_leaves_the_folder_free(engine: Engine, recipe: str, tmp_path: Path) -> None:
    argv = ["train", "--config-file", recipe, "train.output_dir=out"]
    engine.error = DataError("image 5 is missing")
    assert cli.main(argv) == 3
    assert not (tmp_path / "out" / "config.json").exists()
    engine.error = None
    assert cli.main(argv) == 0
    saved = (tmp_path / "out" / "config.json").read_text()
    (tmp_path / "out" / "model_0000001.pth").write_text("")
    engine.error = WeightsError("another model")
    assert cli.main([*argv, "--resume", "train.max_iter=9"]) == 3
    assert (tmp_path / "out" / "config.json").read_text() == saved


def test_eval_hands_on_weights_and_claims_nothing(engine: Engine, recipe: str) -> None:
    Path("model_0000001.pth").write_text("")
    argv = ["--config-file", recipe, "train.output_dir=."]
    assert cli.main(["eval", *argv, "--weights", "w.pth"]) == 0
    assert cli.main(["train", *argv, "--eval-only", "train.init_checkpoint=v.pth"]) == 0
    assert [(what, cfg.train.init_checkpoint) for what, cfg, _ in engine.calls] == [
        ("eval", "w.pth"),
        ("eval", "v.pth"),
    ]


def test_errors_are_one_line_and_have_codes(
    engine: Engine, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.error = DataError("image 5\nis missing")
    argv = ["train", "--config-file", recipe, "--overwrite"]
    assert cli.main(argv) == 3
    assert capsys.readouterr().err == "error: image 5 is missing\n"
    assert cli.main([*argv, "--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err
    engine.error = StoppedBySignal(15, "saved x; continue with --resume")
    assert cli.main(argv) == 143
    assert capsys.readouterr().err == "stopped: saved x; continue with --resume\n"
    engine.error = KeyboardInterrupt()
    assert cli.main(argv) == 130
    assert "interrupted" in capsys.readouterr().err
    engine.error = ZeroDivisionError("a fault of ours")
    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
        cli.main(argv)


USAGE = {
    "train --config-file nowhere.py": "recipe 'nowhere.py' not found",
    "train --config-file recipe.py train.max_itr=5": "did you mean 'train.max_iter'",
    "train --config-file recipe.py --num-gpus 3": "--num-gpus 3, but this machine has no GPUs",
    "train --config-file recipe.py train.device=tpu": "must be auto, cuda or cpu, got 'tpu'",
    "training": "unknown command 'training'; there are train, eval, ",
    "env --jsn": "unrecognized arguments: --jsn",
}


@pytest.mark.parametrize("line", USAGE)
def test_wrong_usage_is_two(
    engine: Engine, recipe: str, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    assert cli.main(line.split()) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert USAGE[line] in shown
    assert engine.calls == []
    assert not Path("output").exists()


def test_under_torchrun_one_process_speaks(
    engine: Engine, recipe: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["train", "--config-file", "nowhere.py"]) == 2
    assert capsys.readouterr().err == ""


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert re.search("train +train the model", capsys.readouterr().out)
    assert cli.main([]) == 2
    assert "usage: vitdet" in capsys.readouterr().err
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("vitdet_d2 0.")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["train", "--help"])


def test_env_as_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    [line] = [line for line in lines if line.startswith("detectron2: ")]
    assert line.split()[1] in ("bundled", "installed")
    assert Path(line.split(maxsplit=3)[3]).is_dir()
    assert cli.main(["env", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["detectron2"]["runtime"] == line.split()[1]
    assert described["packages"]["omegaconf"]


def test_env_hints_at_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def broken(*_: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(torchvision.ops, "nms", broken)
    monkeypatch.setattr(torch, "__version__", "2.4.1+cpu")
    monkeypatch.setattr(environment, "_PACKAGES", ("no-such-package",))
    hints = environment.describe()["hints"]
    assert any("no-such-package is not installed: pip install" in hint for hint in hints)
    assert any("torch 2.4.1+cpu is below 2.10" in hint for hint in hints)
    assert any("torchvision::nms does not exist" in hint for hint in hints)


def test_script_and_module_run() -> None:
    script = [sys.executable, "train_net.py", "--config-file", "nope"]
    result = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: recipe 'nope' not found")
    module = [sys.executable, "-m", "vitdet_d2", "--version"]
    assert subprocess.run(module, cwd=ROOT, capture_output=True, check=False).returncode == 0
