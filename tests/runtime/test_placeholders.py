# SPDX-License-Identifier: Apache-2.0
"""Names that can be imported without being there, in the bundled runtime."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.runtime.test_selection import ROOT, output, run
from vitdet_d2.runtime import BUNDLED_ROOT
from vitdet_d2.runtime.placeholders import PLACEHOLDERS

STARTS = "import vitdet_d2\nfrom detectron2.structures import Boxes, RotatedBoxes\n"


def test_every_name_can_be_imported(tmp_path: Path) -> None:
    """In one process, in a row: a placeholder module must not hide a real one."""
    lines = [f"from {module} import {', '.join(names)}" for module, names in PLACEHOLDERS.items()]
    code = "\n".join(["import vitdet_d2", *lines, "import detectron2.layers", "print('ok')"])
    assert output(run(code, cwd=tmp_path)) == "ok"


def test_table_has_no_name_that_is_there() -> None:
    for module, names in PLACEHOLDERS.items():
        stem = BUNDLED_ROOT.joinpath(*module.split("."))
        file = stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")
        if file.is_file():
            tree = ast.parse(file.read_text(encoding="utf-8"))
            real = {
                name
                for node in ast.walk(tree)
                for name in (
                    [alias.asname or alias.name for alias in node.names]
                    if isinstance(node, ast.ImportFrom)
                    else [node.name]
                    if isinstance(node, ast.ClassDef | ast.FunctionDef)
                    else []
                )
            }
            bundled = real & set(names)
            assert not bundled, f"{module} has {bundled} now: delete them from PLACEHOLDERS"
        else:
            assert not stem.is_dir(), module


def test_documentation_lists_the_table() -> None:
    text = (ROOT / "docs/compatibility.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \(placeholders\) \| (.*) \|$", text, flags=re.MULTILINE)
    listed = {f"detectron2.{module}": tuple(re.findall(r"`(\w+)`", row)) for module, row in rows}
    assert listed == PLACEHOLDERS


def test_nothing_is_an_instance(tmp_path: Path) -> None:
    code = f"""{STARTS}
import torch
boxes = Boxes(torch.zeros(1, 4))
print(isinstance(boxes, RotatedBoxes), isinstance(boxes, (RotatedBoxes, Boxes)))
print(issubclass(Boxes, RotatedBoxes), hasattr(RotatedBoxes, "cat"))
def annotated(boxes: Boxes | RotatedBoxes | None = None) -> None: ...
"""
    assert output(run(code, cwd=tmp_path)).split() == ["False", "True", "False", "False"]


USES = (
    "RotatedBoxes([[1, 2, 3, 4, 5]])",
    "RotatedBoxes.cat([])",
    "type('Mine', (RotatedBoxes,), {})",
    "importlib.import_module('detectron2.export.caffe2')",
    "importlib.import_module('detectron2.export.torchscript').script_all",
)


def test_use_says_what_is_missing(tmp_path: Path) -> None:
    code = f"""{STARTS}
import importlib
for use in {USES!r}:
    try:
        eval(use)
    except (NotImplementedError, AttributeError, ImportError) as error:
        print(type(error).__name__, error)
"""
    lines = output(run(code, cwd=tmp_path)).split("\n")
    missing = "detectron2.structures.RotatedBoxes is not part of the Detectron2 subset"
    assert lines[0].startswith(f"NotImplementedError {missing}")
    assert lines[1].startswith(f"AttributeError {missing}")
    assert lines[2].startswith(f"NotImplementedError {missing}")
    assert lines[3].startswith("ImportError detectron2.export.caffe2 is not part of the")
    assert lines[4].startswith(
        "AttributeError detectron2.export.torchscript.script_all is not part"
    )
    assert all("git+https://github.com/facebookresearch/detectron2" in line for line in lines)
