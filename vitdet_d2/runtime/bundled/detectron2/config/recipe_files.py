# SPDX-License-Identifier: Apache-2.0
"""Run a recipe file, with relative imports that go by files.

A recipe gets builtins of its own, in which only ``__import__`` differs. So the interpreter's own
import stays untouched, whatever a recipe raises, and recipes never enter ``sys.modules``: each
import of a recipe runs the file again, and changes to its values have no effect elsewhere.

Source: behaviour of detectron2 ``config/lazy.py``.
"""

from __future__ import annotations

import builtins
import posixpath
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig

# Stands in `__name__`, and tells classes and functions that were defined in a recipe.
_PACKAGE = "detectron2._cfg_loader"


def to_config(value: Any) -> Any:
    """Return a plain mapping as a ``DictConfig``, everything else as it is.

    Args:
        value: what a recipe has under a name.
    """
    return DictConfig(value, flags={"allow_objects": True}) if isinstance(value, dict) else value


def run_recipe(path: str) -> dict[str, Any]:
    """Execute a recipe.

    Args:
        path: of the ``.py`` file, local or known to ``PathManager``.

    Returns:
        Its global names.

    Raises:
        SyntaxError: it is not Python.
    """
    with PathManager.open(path) as file:
        text = file.read()
    code = compile(text, path, "exec")  # with the path, for tracebacks and for load_rel
    names: dict[str, Any] = {
        "__file__": path,
        "__name__": f"{_PACKAGE}.{posixpath.basename(path).removesuffix('.py')}",
        "__package__": _PACKAGE,
        "__builtins__": {**vars(builtins), "__import__": _recipe_import},
    }
    exec(code, names)
    return names


def _recipe_import(
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """Stand in for ``__import__`` inside recipes, with its arguments.

    Raises:
        ImportError: a relative import names no recipe file, or a name that the file lacks.
    """
    if level == 0 or globals is None:
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    path = _imported_file(globals["__file__"], name, level)
    module = ModuleType(f"{_PACKAGE}.{name}")
    names = run_recipe(path)
    wanted = list(fromlist or ())
    if "*" in wanted:
        wanted = [public for public in names if not public.startswith("_")]
    for wanted_name in wanted:
        if wanted_name not in names:
            raise ImportError(f"cannot import name {wanted_name!r} from the recipe {path}")
        names[wanted_name] = to_config(names[wanted_name])
    module.__dict__.update(names)
    return module


def _imported_file(importer: str, name: str, level: int) -> str:
    if not name:
        raise ImportError(
            f"{importer}: a relative import in a recipe names a recipe file, not a folder; write "
            "`from .file import name` in place of `from . import file`"
        )
    folder = posixpath.dirname(importer)
    for _ in range(level - 1):
        # Textual parents would lose their way in "" and "..".
        folder = posixpath.dirname(folder) if folder.rstrip("./") else posixpath.join(folder, "..")
    stem = posixpath.join(folder, *name.split("."))
    if PathManager.isfile(f"{stem}.py"):
        return f"{stem}.py"
    reason = "is a folder, not a recipe file" if PathManager.isdir(stem) else "does not exist"
    shown = stem if PathManager.isdir(stem) else f"{stem}.py"
    raise ImportError(f"{importer}: cannot import {'.' * level}{name}: {shown} {reason}")
