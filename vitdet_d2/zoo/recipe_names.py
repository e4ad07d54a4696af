# SPDX-License-Identifier: Apache-2.0
"""From what a user types to the file of a recipe.

A recipe is given by path, by name (``vitdet_l``), or by Detectron2's name for it
(``COCO/mask_rcnn_vitdet_l``, with or without ``_100ep``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import vitdet_d2
from vitdet_d2.errors import RecipeError

ENDINGS = (".py", ".yaml", ".yml", ".json")

_DETECTRON2_NAME = re.compile(
    r"(?P<data>COCO|LVIS)/(?P<cascade>cascade_)?mask_rcnn_(?P<family>vitdet|swin|mvitv2)_"
    r"(?P<size>[blh])(?:_in21k)?(?:_\d+ep)?"
)


def recipe_folders() -> list[Path]:
    """Return where named recipes lie: beside the package in a source tree, inside it in a wheel."""
    package = Path(vitdet_d2.__file__).resolve().parent
    return [folder for folder in (package.parent, package) if (folder / "projects").is_dir()]


def recipe_names() -> list[str]:
    """Return the names that ``find_recipe`` knows, sorted."""
    names = set()
    for folder in recipe_folders():
        projects = folder / "projects"
        for path in projects.rglob("*.py"):
            names.add(path.relative_to(projects).with_suffix("").as_posix())
    return sorted(name for name in names if not name.rpartition("/")[2].startswith("_"))


def own_name(name: str) -> str:
    """Return our name of a recipe that is given by Detectron2's.

    Args:
        name: without ending; any other name is returned as it is.
    """
    match = _DETECTRON2_NAME.fullmatch(name)
    if match is None:
        return name
    lvis = "lvis_" if match["data"] == "LVIS" else ""
    return f"{lvis}{match['cascade'] or ''}{match['family']}_{match['size']}"


def find_recipe(path_or_name: str) -> Path:
    """Return the file of a recipe; an existing file goes before a name.

    Args:
        path_or_name: as given with ``--config-file``.

    Raises:
        RecipeError: there is no such file or name, or its ending is not that of a recipe.
    """
    path = Path(path_or_name).expanduser()
    if path.is_file():
        if path.suffix not in ENDINGS:
            raise RecipeError(f"{path} is no recipe: a recipe ends in {', '.join(ENDINGS)}")
        return path.resolve()
    name = path_or_name.removesuffix(".py").removeprefix("projects/")
    for folder in recipe_folders():
        named = folder / "projects" / f"{own_name(name)}.py"
        if named.is_file():
            return named
    raise RecipeError(_not_found(path, name))


def _not_found(path: Path, name: str) -> str:
    names = recipe_names()
    near: Sequence[str] = difflib.get_close_matches(own_name(name), names, n=3)
    if path.parent.is_dir() and str(path.parent) != ".":
        files = [str(file) for file in path.parent.iterdir() if file.suffix in ENDINGS]
        near = [*difflib.get_close_matches(str(path), files, n=2), *near]
    if near:
        cure = f"did you mean {' or '.join(near)}?"
    else:
        cure = f"recipes by name: {', '.join(names) or 'none'}"
    return f"recipe {str(path)!r} not found, neither as a file nor as a name; {cure}"
