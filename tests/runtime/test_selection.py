# SPDX-License-Identifier: Apache-2.0
"""Which Detectron2 a process uses, decided in fresh processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import vitdet_d2
from vitdet_d2 import runtime

ROOT = Path(vitdet_d2.__file__).resolve().parents[1]
REPORT = "from vitdet_d2 import runtime; print(runtime.current().name, runtime.current().version)"


def run(
    code: str, *, cwd: Path, path: tuple[Path, ...] = (), choice: str | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "VITDET_D2_RUNTIME"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, [*path, ROOT]))
    if choice is not None:
        environment["VITDET_D2_RUNTIME"] = choice
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def make_package(folder: Path, body: str = "__version__ = '9.9'\n") -> Path:
    (folder / "detectron2").mkdir(parents=True)
    (folder / "detectron2" / "__init__.py").write_text(body)
    return folder


def make_stray_folder(folder: Path) -> Path:
    """As `git clone` leaves it: a folder of the name, the package one level below."""
    make_package(folder / "detectron2")
    return folder


def output(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_bundled_where_there_is_none(tmp_path: Path) -> None:
    code = f"import vitdet_d2, sys; print(sys.path[-1].endswith('bundled')); {REPORT}"
    assert output(run(code, cwd=tmp_path)).split("\n") == [
        "True",
        f"bundled 0.6+bundled.{vitdet_d2.__version__}",
    ]


def test_installed_wins_wherever_it_stands_on_the_path(tmp_path: Path) -> None:
    installed = make_package(tmp_path / "site")
    code = f"import vitdet_d2, sys; print(any('bundled' in p for p in sys.path)); {REPORT}"
    assert output(run(code, cwd=tmp_path, path=(installed,))) == "False\ninstalled 9.9"
    # Appended after ours could be: still found first.
    late = f"import sys; sys.path.append({str(installed)!r}); import vitdet_d2; {REPORT}"
    assert output(run(late, cwd=tmp_path)) == "installed 9.9"


def test_stray_folder_neither_counts_nor_shadows(tmp_path: Path) -> None:
    make_stray_folder(tmp_path)
    code = f"import vitdet_d2; import detectron2.utils.serialize; {REPORT}"
    assert output(run(code, cwd=tmp_path)).startswith("bundled 0.6+bundled")


def test_stray_folder_imported_before_us_is_forgotten(tmp_path: Path) -> None:
    make_stray_folder(tmp_path)
    code = f"import detectron2; assert detectron2.__file__ is None; import vitdet_d2; {REPORT}"
    assert output(run(code, cwd=tmp_path)).startswith("bundled 0.6+bundled")


def test_stray_folder_does_not_hide_an_editable_install(tmp_path: Path) -> None:
    make_stray_folder(tmp_path / "work")
    installed = make_package(tmp_path / "source")
    # What setuptools' editable installs do: a finder at the very end.
    code = f"""
import sys
from importlib.machinery import PathFinder
class Editable:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "detectron2":
            return PathFinder.find_spec(name, [{str(installed)!r}])
sys.meta_path.append(Editable)
import vitdet_d2
{REPORT}
"""
    assert output(run(code, cwd=tmp_path / "work")) == "installed 9.9"


def test_forced_bundled_goes_before_an_installed_one(tmp_path: Path) -> None:
    installed = make_package(tmp_path / "site")
    result = run(f"import vitdet_d2; {REPORT}", cwd=tmp_path, path=(installed,), choice="bundled")
    assert output(result).startswith("bundled 0.6+bundled")


def test_forced_bundled_after_another_import_is_an_error(tmp_path: Path) -> None:
    installed = make_package(tmp_path / "site")
    code = "import detectron2, vitdet_d2"
    result = run(code, cwd=tmp_path, path=(installed,), choice="bundled")
    assert result.returncode != 0
    assert "ImportError: VITDET_D2_RUNTIME=bundled, but another Detectron2 is already" in (
        result.stderr
    )
    assert "Import vitdet_d2 before detectron2" in result.stderr


def test_forced_installed_does_not_fall_back(tmp_path: Path) -> None:
    result = run("import vitdet_d2", cwd=tmp_path, choice="installed")
    assert "VITDET_D2_RUNTIME=installed, but Detectron2 is not installed" in result.stderr
    assert "pip install" in result.stderr


def test_hints_about_an_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str) -> None:
        assert name == "pkg_resources"

    monkeypatch.setattr(runtime.importlib.util, "find_spec", find_spec)
    installed = runtime.Runtime(name="installed", version="0.6", path=tmp_path)
    setuptools, compiled = installed.hints()
    assert "pip install 'setuptools<82'" in setuptools
    assert "not compiled" in compiled
    (tmp_path / "_C.cpython-311.so").touch()
    assert installed.hints() == [setuptools]
    assert runtime.Runtime(name="bundled", version="0.6", path=tmp_path).hints() == []


def test_unknown_choice_is_an_error(tmp_path: Path) -> None:
    result = run("import vitdet_d2", cwd=tmp_path, choice="mine")
    assert "must be 'bundled' or 'installed'" in result.stderr
    assert "got 'mine'" in result.stderr


def test_broken_installation_names_both_cures_and_leaves_nothing(tmp_path: Path) -> None:
    body = "import detectron2.part\n"
    installed = make_package(tmp_path / "site", body)
    (installed / "detectron2" / "part.py").write_text("import no_such_module\n")
    code = """
import sys
try:
    import vitdet_d2
except ImportError as error:
    print(error)
print(sorted(name for name in sys.modules if name.startswith("detectron2")))
"""
    message, modules = output(run(code, cwd=tmp_path, path=(installed,))).split("\n")
    assert "fails at import with ModuleNotFoundError: No module named 'no_such_module'" in message
    assert "pip install" in message
    assert "VITDET_D2_RUNTIME=bundled" in message
    assert modules == "[]"


def test_second_import_changes_nothing(tmp_path: Path) -> None:
    code = f"""
import vitdet_d2, detectron2, sys
before = list(sys.path), len(sys.meta_path)
for name in [name for name in sys.modules if name.startswith("vitdet_d2")]:
    del sys.modules[name]
import vitdet_d2
assert (list(sys.path), len(sys.meta_path)) == before
assert sys.modules["detectron2"] is detectron2
{REPORT}
"""
    assert output(run(code, cwd=tmp_path)).startswith("bundled")


def test_long_name_raises_however_it_is_imported(tmp_path: Path) -> None:
    code = """
import vitdet_d2
for name in ("vitdet_d2.runtime.bundled.detectron2", "vitdet_d2.runtime.bundled.detectron2.config"):
    try:
        __import__(name)
    except ImportError as error:
        print(error)
"""
    lines = output(run(code, cwd=tmp_path)).split("\n")
    assert len(lines) == 2
    assert all("must not be imported under this name" in line for line in lines)


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_workers_unpickle_before_they_import_anything_of_ours(tmp_path: Path, method: str) -> None:
    # `-c` has no main module that a child would import first; a light class, to keep this fast.
    make_stray_folder(tmp_path)
    code = f"""
import multiprocessing
import vitdet_d2
from detectron2.utils.serialize import PicklableWrapper
with multiprocessing.get_context({method!r}).Pool(1) as pool:
    print(pool.map(repr, [PicklableWrapper(len)])[0])
"""
    assert "detectron2.utils.serialize.PicklableWrapper" in output(run(code, cwd=tmp_path))


def test_spawned_rank_gets_instances_and_a_recipe(tmp_path: Path) -> None:
    code = """
import vitdet_d2, torch, sys
import torch.multiprocessing as mp
from omegaconf import OmegaConf
from detectron2.config import LazyCall
from detectron2.structures import Instances
sample = Instances((4, 5))
sample.scores = torch.ones(3)
recipe = LazyCall(Instances)(image_size=(4, 5))
with mp.get_context("spawn").Pool(1) as pool:
    print(pool.map(len, [sample]), pool.map(OmegaConf.to_yaml, [recipe])[0].split()[-1])
"""
    assert output(run(code, cwd=tmp_path)).startswith("[3] ")


ABSENT = {
    "import detectron2.tracking": "detectron2.tracking",
    "from detectron2 import tracking": "detectron2.tracking",
    "from detectron2.modeling import FCOS": "detectron2.modeling.FCOS",
    "from detectron2 import modeling; modeling.FCOS": "detectron2.modeling.FCOS",
}


@pytest.mark.parametrize("statement", ABSENT)
def test_what_is_not_bundled_says_so(tmp_path: Path, statement: str) -> None:
    result = run(f"import vitdet_d2\n{statement}", cwd=tmp_path)
    last = result.stderr.strip().split("\n")[-1]
    assert f"{ABSENT[statement]} is not part of the Detectron2 subset" in last
    assert " has: " in last
    assert "git+https://github.com/facebookresearch/detectron2" in last


def test_asking_whether_something_is_there_gets_an_answer(tmp_path: Path) -> None:
    code = """
import vitdet_d2, detectron2.modeling
assert not hasattr(detectron2.modeling, "FCOS")
assert not hasattr(detectron2, "__no_such_hook__")
try:
    import detectron2._C
except ImportError as error:
    assert error.name == "detectron2._C"
"""
    assert output(run(code, cwd=tmp_path)) == ""


def test_installed_one_gets_no_hints(tmp_path: Path) -> None:
    installed = make_package(tmp_path / "site")
    code = "import vitdet_d2, detectron2.export"
    result = run(code, cwd=tmp_path, path=(installed,))
    assert "ModuleNotFoundError: No module named 'detectron2.export'" in result.stderr
