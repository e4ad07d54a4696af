# SPDX-License-Identifier: Apache-2.0
"""What is said where a part of Detectron2 is asked for that is not bundled.

Two places share one message: ``__getattr__`` of the bundled packages
(``detectron2.modeling.FCOS``), and the last import finder (``import detectron2.tracking``,
``from detectron2.modeling import FCOS``). Both know the names in ``placeholders.py``, which can be
imported and fail where they are used.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from vitdet_d2.runtime.placeholders import has_placeholder, is_placeholder_module, placeholder

INSTALL_COMMAND = (
    "pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2"
)


def not_bundled_message(parent: str, name: str) -> str:
    """Return the message for ``parent.name``: the name, what there is, how to get the rest.

    Args:
        parent: dotted name of a bundled package or module.
        name: the submodule or attribute that it lacks.
    """
    known = ", ".join(_public_names(sys.modules.get(parent))) or "nothing public"
    return (
        f"{parent}.{name} is not part of the Detectron2 subset that vitdet_d2 bundles. {parent} "
        f"has: {known} (the whole list: docs/compatibility.md). To use the rest, install "
        f"Detectron2 with `{INSTALL_COMMAND}`: an installed one is preferred"
    )


def absent_attribute(module_name: str) -> Callable[[str], Any]:
    """Return a module ``__getattr__``: a placeholder where there is one, else the message above.

    Args:
        module_name: ``__name__`` of the bundled module that uses it.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807  (a module's hook has this name)
        if name.startswith("__"):
            raise AttributeError(f"module {module_name!r} has no attribute {name!r}")
        if has_placeholder(module_name, name):
            return placeholder(module_name, name, not_bundled_message(module_name, name))
        raise AttributeError(not_bundled_message(module_name, name), name=name)

    return __getattr__


def _public_names(module: ModuleType | None) -> list[str]:
    if module is None:
        return []
    path = getattr(module, "__path__", None)
    submodules = [info.name for info in pkgutil.iter_modules(path)] if path is not None else []
    names = {*submodules, *getattr(module, "__all__", [])}
    return sorted(name for name in names if not name.startswith("_"))


class _PlaceholderLoader(Loader):
    """Makes a module that holds nothing but placeholders."""

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its one hook."""
        module.__dict__["__getattr__"] = absent_attribute(module.__name__)


class _HintFinder(MetaPathFinder):
    """Stands last, so that it is asked for what nobody else has found."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Raise for a submodule of ``detectron2`` without placeholders, pass on everything else.

        Raises:
            ImportError: nobody has found the submodule. Not ``ModuleNotFoundError``: ``from
                package import name`` swallows that, and with it the message.
        """
        parent, _, name = fullname.rpartition(".")
        if parent.partition(".")[0] != "detectron2":
            return None
        if is_placeholder_module(fullname):
            return ModuleSpec(fullname, _PlaceholderLoader(), is_package=True)
        raise ImportError(not_bundled_message(parent, name), name=fullname)


def install_hints() -> None:
    """Make imports of what is not bundled say so; called when the bundled runtime is chosen."""
    remove_hints()
    sys.meta_path.append(_HintFinder())


def remove_hints() -> None:
    """Undo ``install_hints``, also of a previous import of this module."""
    sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != _HintFinder.__name__]
