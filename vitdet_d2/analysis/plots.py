# SPDX-License-Identifier: Apache-2.0
"""Pictures of numbers: one figure, drawn without a display and without global state.

matplotlib is an extra, and imported in this file only.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitdet_d2.analysis.text_files import check_output
from vitdet_d2.atomic_write import atomic_write
from vitdet_d2.errors import RecipeError, UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".png", ".pdf", ".svg")
# Okabe and Ito's colours, which people with any colour vision can tell apart.
COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F", "#000000",
)  # fmt: skip
_DOTS_PER_INCH = 150


def check_plot(path: Path) -> None:
    """Refuse a picture that could not be written, before the work whose outcome it shows.

    Args:
        path: of the picture.

    Raises:
        RecipeError: the ending is none of a picture, it cannot be written there, or there is no
            matplotlib.
    """
    if path.suffix.lower() not in ENDINGS:
        raise RecipeError(f"{path}: expected a picture that ends in {', '.join(ENDINGS)}")
    check_output(path)
    if importlib.util.find_spec("matplotlib") is None:
        raise RecipeError(
            "plots need matplotlib, which is not installed; get it with "
            "`pip install 'vitdet_d2[plots]'`, or leave the plot out"
        )


def check_outputs(files: Sequence[Path | None], plot: Path | None) -> None:
    """Refuse the files of a report that could not be written, before the work that they hold.

    Args:
        files: of text; None: not asked for.
        plot: picture; None: not asked for.

    Raises:
        RecipeError: one cannot be written, or two are the same.
    """
    for path in files:
        if path is not None:
            check_output(path)
    if plot is not None:
        check_plot(plot)
    places = [path.resolve() for path in (*files, plot) if path is not None]
    if len(set(places)) < len(places):
        twice = next(path for path in places if places.count(path) > 1)
        raise RecipeError(f"{twice} is named for two outputs; give each a file of its own")


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure that needs no display.

    Args:
        width: in inches.
        height: in inches.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a whole, replacing an older picture.

    Args:
        figure: drawn.
        path: its ending tells the format.

    Raises:
        UserError: the system refuses.
    """
    kind = path.suffix.lower().removeprefix(".")
    # Without the time of drawing, equal figures are equal files.
    stamp = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    drawn = io.BytesIO()
    figure.savefig(drawn, format=kind, dpi=_DOTS_PER_INCH, metadata=stamp.get(kind))
    try:
        with atomic_write(path) as file:
            file.write(drawn.getvalue())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
