# SPDX-License-Identifier: Apache-2.0
"""The wheel and the editable installation hold what the runtime rule promises, and nothing else."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROBE = """
import json, vitdet_d2, detectron2
from vitdet_d2.engine.recipes import load_recipe
from vitdet_d2.zoo.recipe_names import find_recipe
path = find_recipe("vitdet_ti")
recipe = load_recipe("vitdet_ti")
print(json.dumps({
    "package": vitdet_d2.__file__, "detectron2": detectron2.__file__,
    "version": detectron2.__version__, "recipe": str(path),
    "embed_dim": recipe.model.backbone.net.embed_dim,
}))
"""


def probe(cwd: Path, **environment: str) -> dict:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VITDET_D2_RUNTIME")}
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**env, "VITDET_D2_RUNTIME": "bundled", **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    # A copy: building writes `build/` and an egg-info folder into the source tree.
    for name in filter(None, map(os.fsdecode, tracked)):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source],
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.whl"))


def test_wheel_installs_nothing_beside_the_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"vitdet_d2"}


def test_wheel_holds_every_module_and_every_recipe(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "vitdet_d2").rglob("*.py")}
    recipes = {
        f"vitdet_d2/{p.relative_to(ROOT)}"
        for folder in ("projects", "configs")
        for p in (ROOT / folder).rglob("*.py")
    }
    assert len(recipes) >= 6, "the recipes are not where this test looks"
    assert not (modules | recipes) - names
    assert "vitdet_d2/runtime/bundled/__init__.py" not in names


def test_wheel_imports_and_finds_recipes_by_name(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    found = probe(tmp_path, PYTHONPATH=str(site))
    assert Path(found["package"]).is_relative_to(site)
    assert Path(found["recipe"]).is_relative_to(site / "vitdet_d2" / "projects")
    assert Path(found["detectron2"]).is_relative_to(site / "vitdet_d2" / "runtime" / "bundled")
    assert "bundled" in found["version"]
    assert found["embed_dim"] == 192


def test_editable_installation_finds_recipes_by_name(tmp_path: Path) -> None:
    try:
        importlib.metadata.distribution("vitdet_d2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed in this environment; `make test` installs it")
    found = probe(tmp_path)
    assert Path(found["recipe"]) == ROOT / "projects" / "vitdet_ti.py"
