# SPDX-License-Identifier: Apache-2.0
"""Imports point one way, and one module alone decides which Detectron2 is in use."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vitdet_d2

PACKAGE = Path(vitdet_d2.__file__).resolve().parent
ROOT = PACKAGE.parent
RUNTIME = PACKAGE / "runtime"
BUNDLED = RUNTIME / "bundled" / "detectron2"

# A module imports from its own layer and from those above it in this list.
LAYERS = [
    ("errors", "progress_bar", "atomic_write", "checks", "geometry"),
    ("runtime",),
    ("layers",),
    ("backbones", "necks", "heads"),
    ("pretrained", "zoo", "data", "solver", "evaluation"),
    ("engine", "analysis", "tuning", "environment"),
    ("__main__",),
]
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# What the bundled runtime stands on; everything else would be a new requirement.
BUNDLED_NEEDS = {
    "detectron2",
    "vitdet_d2",
    "torch",
    "torchvision",
    "fvcore",
    "iopath",
    "omegaconf",
    "pycocotools",
    "numpy",
    "PIL",
    "yaml",
    "tabulate",
    "termcolor",
    "tqdm",
    "tensorboard",
    "black",
    "cloudpickle",
    "matplotlib",
}
# The bundled runtime re-exports our ViT and our LVIS, by name, when it is asked for.
UPWARD = {
    BUNDLED / "modeling" / "backbone" / "vit.py",
    BUNDLED / "data" / "datasets" / "lvis.py",
    BUNDLED / "evaluation" / "lvis_evaluation.py",
}


def sources(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the dotted name of every import, those inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            # `from vitdet_d2 import runtime` names a module by its last part.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and str(node.value).startswith("vitdet_d2."):
            yield str(node.value)  # for importlib


def layer_of(name: str) -> str | None:
    """Return the first part below the package: a layer, or None for what the package itself has."""
    parts = name.split(".")
    is_ours = parts[0] == "vitdet_d2" and len(parts) > 1
    return parts[1] if is_ours and not parts[1].startswith("__version") else None


def upward_imports(path: Path, tree: ast.Module) -> list[str]:
    """Return the imports of a file that point at a layer above its own."""
    own = RANKS[path.relative_to(PACKAGE).parts[0].removesuffix(".py")]
    layers = {name: layer_of(name) for name in imported(tree)}
    return [name for name, layer in layers.items() if layer is not None and RANKS[layer] > own]


def test_imports_point_one_way() -> None:
    wrong = []
    for path in sources(PACKAGE):
        if path in UPWARD or path == PACKAGE / "__init__.py":
            continue
        for name in upward_imports(path, ast.parse(path.read_text(encoding="utf-8"))):
            wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert not wrong


def test_upward_imports_are_found() -> None:
    tree = ast.parse(
        "import torch\n"
        "from vitdet_d2.layers.mlp import Mlp\n"
        "def f():\n"
        "    from vitdet_d2 import engine\n"
        "    import_module('vitdet_d2.data.loader')\n"
    )
    found = upward_imports(PACKAGE / "necks" / "x.py", tree)
    assert sorted(found) == ["vitdet_d2.data.loader", "vitdet_d2.engine"]


def test_bundled_runtime_needs_what_is_listed() -> None:
    extra = {
        f"{path.relative_to(BUNDLED)}: {name}"
        for path in sources(BUNDLED)
        for name in imported(ast.parse(path.read_text(encoding="utf-8")))
        if name.split(".")[0] not in BUNDLED_NEEDS | set(sys.stdlib_module_names)
    }
    assert not extra


def test_nothing_imports_the_recipes() -> None:
    for path in sources(PACKAGE):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        parts = {part for name in imported(tree) for part in name.split(".")[:2]}
        assert not parts & {"projects", "configs"}, path


def runtime_checks(tree: ast.Module) -> list[int]:
    """Return the lines that ask which Detectron2 is in use, or whether there is one."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            constants = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
            found = bool(constants & {"bundled", "installed"})
        elif isinstance(node, ast.Call):
            named = any(isinstance(a, ast.Constant) and a.value == "detectron2" for a in node.args)
            found = named and ast.unparse(node.func).endswith(("find_spec", "import_module"))
        elif isinstance(node, ast.Try):
            tried = ast.Module(body=node.body, type_ignores=[])
            handled = " ".join(ast.unparse(h.type) for h in node.handlers if h.type is not None)
            found = "ImportError" in handled or "ModuleNotFoundError" in handled
            found = found and any(name.split(".")[0] == "detectron2" for name in imported(tried))
        else:
            # The name of the environment variable by itself; in a message it is part of a text.
            found = isinstance(node, ast.Constant) and node.value == "VITDET_D2_RUNTIME"
        if found:
            lines.append(node.lineno)
    return lines


def test_only_the_runtime_asks_which_detectron2_is_in_use() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources(PACKAGE, ROOT / "projects", ROOT / "configs")
        if RUNTIME not in path.parents
        for line in runtime_checks(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not wrong


@pytest.mark.parametrize(
    "code",
    [
        "if runtime.current().name == 'bundled': pass",
        "spec = importlib.util.find_spec('detectron2')",
        "os.environ['VITDET_D2_RUNTIME']",
        "try:\n    from detectron2 import layers\nexcept ImportError:\n    layers = None",
    ],
)
def test_runtime_checks_are_found(code: str) -> None:
    assert runtime_checks(ast.parse(code))
    assert not runtime_checks(ast.parse("import detectron2\nprint(runtime.current())"))
