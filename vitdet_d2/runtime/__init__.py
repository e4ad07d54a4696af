# SPDX-License-Identifier: Apache-2.0
"""Which Detectron2 this process uses: an installed one, or the subset that this package carries.

Vocabulary:
    installed: a regular package ``detectron2`` (it has an ``__init__``) that is not ours. A cloned
        folder of that name on the path is a namespace package, and does not count.
    bundled: ``vitdet_d2/runtime/bundled/detectron2``, put on ``sys.path`` by its parent folder.
        ``multiprocessing`` hands ``sys.path`` to spawned children, so that these unpickle objects
        of the bundled classes before anything of ours is imported.

An installed Detectron2 always wins. The environment variable ``VITDET_D2_RUNTIME`` overrules it:
``bundled`` takes ours in any case, ``installed`` refuses to fall back to ours.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Literal

from vitdet_d2.runtime.absent import INSTALL_COMMAND, install_hints, remove_hints

VARIABLE = "VITDET_D2_RUNTIME"
BUNDLED_ROOT = Path(__file__).resolve().parent / "bundled"


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """The Detectron2 in use.

    Attributes:
        name: which of the two it is.
        version: its ``__version__``; that of the bundled one says so.
        path: the folder of the package.
    """

    name: Literal["bundled", "installed"]
    version: str
    path: Path

    def __str__(self) -> str:
        return f"{self.name} {self.version} {self.path}"

    def hints(self) -> list[str]:
        """Return what a user of an installed Detectron2 should know; nothing of the bundled one."""
        hints = []
        if self.name == "installed" and importlib.util.find_spec("pkg_resources") is None:
            hints.append(
                "Detectron2's model zoo needs pkg_resources: pip install 'setuptools<82', or set "
                f"{VARIABLE}=bundled"
            )
        if self.name == "installed" and not any(self.path.glob("_C.*")):
            hints.append(
                "Detectron2 is not compiled; vitdet_d2 does not need that, parts of Detectron2 do"
            )
        return hints


def activate() -> None:
    """Decide which Detectron2 ``import detectron2`` finds; may be called any number of times.

    Raises:
        ValueError: the environment variable has an unknown value.
        ImportError: the installed Detectron2 fails at import, is demanded and absent, or is
            already imported where the bundled one is demanded.
    """
    request = os.environ.get(VARIABLE, "")
    if request not in ("", "bundled", "installed"):
        raise ValueError(
            f"{VARIABLE} must be 'bundled' or 'installed' (or unset: an installed Detectron2 "
            f"wins), got {request!r}"
        )
    loaded = _loaded_package()
    if request == "bundled":
        _use_bundled(loaded, first=True)
    elif loaded is not None and not _is_ours(loaded.__file__):
        remove_hints()
    elif loaded is None and (spec := _find_installed()) is not None:
        remove_hints()
        _import_installed(spec)
    elif request == "installed":
        state = "is not installed" if loaded is None else "was imported as the bundled one before"
        raise ImportError(
            f"{VARIABLE}=installed, but Detectron2 {state}. Install it with `{INSTALL_COMMAND}`, "
            f"or unset {VARIABLE} to use the bundled subset",
            name="detectron2",
        )
    else:
        _use_bundled(loaded, first=False)


def current() -> Runtime:
    """Return which Detectron2 this process uses; imports it.

    Raises:
        ImportError: it fails at import.
    """
    import detectron2

    path = Path(detectron2.__file__).resolve().parent
    name: Literal["bundled", "installed"] = (
        "bundled" if _is_ours(detectron2.__file__) else "installed"
    )
    return Runtime(name=name, version=getattr(detectron2, "__version__", "unknown"), path=path)


def _is_ours(origin: str | None) -> bool:
    return origin is not None and BUNDLED_ROOT in Path(origin).resolve().parents


def _loaded_package() -> ModuleType | None:
    """Return the imported ``detectron2``; forget it where it is only a stray folder."""
    loaded = sys.modules.get("detectron2")
    if loaded is not None and getattr(loaded, "__file__", None) is None:
        _forget_modules()
        return None
    return loaded


def _forget_modules() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "detectron2"]:
        del sys.modules[name]


def _find_specs() -> Iterator[ModuleSpec]:
    """Yield what each import finder knows under the name, ours left out.

    Every finder is asked: an editable install is known to the last one only, and a stray folder
    in the working directory would hide it from an ordinary import.
    """
    elsewhere = [entry for entry in sys.path if not _is_bundled_root(entry)]
    for finder in list(sys.meta_path):
        find_spec = getattr(finder, "find_spec", None)
        if find_spec is None:
            continue
        spec = find_spec("detectron2", elsewhere if finder is PathFinder else None)
        if spec is not None and not _is_ours(spec.origin):
            yield spec


def _is_bundled_root(entry: str) -> bool:
    return entry != "" and Path(entry).resolve() == BUNDLED_ROOT


def _find_installed() -> ModuleSpec | None:
    for spec in _find_specs():
        is_package = spec.submodule_search_locations is not None
        if is_package and spec.origin is not None and spec.loader is not None:
            return spec
    return None


def _import_installed(spec: ModuleSpec) -> None:
    assert spec.loader is not None, "a regular package has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules["detectron2"] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        _forget_modules()
        raise ImportError(
            f"the installed Detectron2 ({spec.origin}) fails at import with "
            f"{type(error).__name__}: {error}. Repair it (`{INSTALL_COMMAND}`), or set "
            f"{VARIABLE}=bundled to use the subset that vitdet_d2 carries",
            name="detectron2",
            path=spec.origin,
        ) from error


def _use_bundled(loaded: ModuleType | None, *, first: bool) -> None:
    if loaded is not None and not _is_ours(loaded.__file__):
        raise ImportError(
            f"{VARIABLE}=bundled, but another Detectron2 is already imported from "
            f"{loaded.__file__}. Import vitdet_d2 before detectron2, or unset {VARIABLE}",
            name="detectron2",
        )
    elsewhere = [entry for entry in sys.path if not _is_bundled_root(entry)]
    # In place: other modules may hold the list itself.
    sys.path[:] = [str(BUNDLED_ROOT), *elsewhere] if first else [*elsewhere, str(BUNDLED_ROOT)]
    install_hints()
