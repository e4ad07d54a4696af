# SPDX-License-Identifier: Apache-2.0
"""Python recipes: loaded by Detectron2's loader, with errors that name file and line."""

from __future__ import annotations

import builtins
import re
import traceback
from pathlib import Path

from detectron2.config import LazyConfig
from omegaconf import DictConfig

from vitdet_d2.errors import RecipeError


def load_python_recipe(path: Path) -> DictConfig:
    """Run a Python recipe and return its public names as a mapping.

    Args:
        path: a ``.py`` file.

    Raises:
        RecipeError: it fails; the message has the file and line in the recipe.
    """
    # Detectron2's own loader leaves its import hook behind when a recipe fails.
    own_import = builtins.__import__
    try:
        return LazyConfig.load(str(path))
    except SyntaxError as error:
        raise RecipeError(_syntax_error(path, error)) from error
    except RecipeError:
        raise
    except Exception as error:
        raise RecipeError(_failure(path, error)) from error
    finally:
        builtins.__import__ = own_import


def _syntax_error(path: Path, error: SyntaxError) -> str:
    # An installed Detectron2 wraps the error, and names the file in its text only.
    cause = error.__cause__ if isinstance(error.__cause__, SyntaxError) else error
    wrapped = re.fullmatch(r"Config file (.+) has syntax error!", str(error.msg))
    file = wrapped[1] if wrapped else cause.filename or path
    return f"{file}:{cause.lineno}: syntax error: {cause.msg}"


def _failure(path: Path, error: Exception) -> str:
    """Return one line with the place in the recipe, not in what the recipe called."""
    place = str(path)
    for frame, line in traceback.walk_tb(error.__traceback__):
        package = frame.f_globals.get("__package__") or ""
        if package.startswith("detectron2._cfg_loader"):
            place = f"{frame.f_code.co_filename}:{line}"
    reason = " ".join(str(error).split()) or "no message"
    if isinstance(error, ModuleNotFoundError) and error.name == "pkg_resources":
        reason += (
            "; the installed Detectron2 needs it: `pip install 'setuptools<82'`, or set "
            "VITDET_D2_RUNTIME=bundled"
        )
    return f"{place}: {type(error).__name__}: {reason}"
