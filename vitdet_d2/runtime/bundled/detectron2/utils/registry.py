# SPDX-License-Identifier: Apache-2.0
"""Names of objects, in both directions; ``Registry`` is fvcore's.

Source: detectron2 ``utils/registry.py``.
"""

from __future__ import annotations

import importlib
from typing import Any

from fvcore.common.registry import Registry

__all__ = ["Registry", "locate"]


def locate(name: str) -> Any:
    """Return the object with a dotted name, importing what is needed on the way.

    Args:
        name: for example ``torch.nn.Conv2d`` or ``collections.OrderedDict.fromkeys``.

    Raises:
        ImportError: there is no such module or attribute, or a module on the way fails.
    """
    first, *rest = name.split(".")
    try:
        found = importlib.import_module(first)
        path = first
        for part in rest:
            path = f"{path}.{part}"
            found = _member(found, part, path)
    except (ImportError, ValueError) as error:
        raise ImportError(f"cannot locate {name!r}: {error}") from error
    return found


def _member(owner: Any, part: str, path: str) -> Any:
    # The attribute goes first: a package may re-export a function under its module's name.
    try:
        return getattr(owner, part)
    except AttributeError:
        return importlib.import_module(path)


def _convert_target_to_string(t: Any) -> str:
    """Return the shortest dotted name under which ``locate`` finds ``t``.

    ``torch.optim.sgd.SGD`` becomes ``torch.optim.SGD``: a name that survives a moved file.

    Args:
        t: an object with ``__module__`` and ``__qualname__``: a class or a function.
    """
    module, qualname = t.__module__, t.__qualname__
    parts = module.split(".")
    for length in range(1, len(parts)):
        candidate = ".".join([*parts[:length], qualname])
        try:
            if locate(candidate) is t:
                return candidate
        except ImportError:
            continue
    return f"{module}.{qualname}"
