# SPDX-License-Identifier: Apache-2.0
"""``vitdet compare``: AP over the schedule of several runs, and a table of what came of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from vitdet_d2.engine.arguments import OneLineParser, parser_with_examples
from vitdet_d2.errors import RecipeError

_DESCRIPTION = """\
Compare runs by what they measured: final and best AP as a Markdown table, AP over the schedule as
a picture. Runs that were resumed, or are still under way, can be compared too.
"""
_EPILOG = """\
examples:
  vitdet compare runs/mae runs/beit --plot ap.png --markdown table.md
  vitdet compare MAE=runs/a BEiT=runs/b --metric bbox/AP --metric bbox/AP50
  vitdet compare runs/vitdet_b --published vitdet_b
  vitdet compare Mine=runs/mine --published benchmark_vit_b
"""


def main(argv: Sequence[str], prog: str) -> None:
    """Run ``vitdet compare``.

    Args:
        argv: without the program's name.
        prog: shown in messages.

    Raises:
        RecipeError: wrong usage.
        DataError: runs that cannot be compared.
    """
    parsed = _parser(prog).parse_args(list(argv))
    if parsed.images_per_epoch is not None and parsed.images_per_epoch < 1:
        raise RecipeError(f"--images-per-epoch: expected at least 1, got {parsed.images_per_epoch}")
    from vitdet_d2.analysis import comparison_tables as tables
    from vitdet_d2.analysis.comparison import compare
    from vitdet_d2.analysis.plots import check_outputs
    from vitdet_d2.analysis.text_files import csv_text, write_text

    check_outputs([parsed.csv, parsed.markdown], parsed.plot)
    comparison = compare(
        parsed.runs,
        metrics=parsed.metric,
        images_per_epoch=parsed.images_per_epoch,
        published=parsed.published,
    )
    for note in comparison.notes():
        print(f"note: {note}", file=sys.stderr)
    table = tables.as_markdown(comparison)
    if parsed.markdown is not None:
        write_text(parsed.markdown, f"{table}\n")
    if parsed.csv is not None:
        write_text(parsed.csv, csv_text(tables.as_rows(comparison)))
    if parsed.plot is not None:
        from vitdet_d2.analysis.comparison_plot import plot_comparison

        plot_comparison(comparison, parsed.plot)
    print(json.dumps(tables.as_json(comparison), indent=1) if parsed.json else table)


def _parser(prog: str) -> OneLineParser:
    parser = parser_with_examples(prog, _DESCRIPTION, _EPILOG)
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run folder or metrics.json; NAME=PATH gives it a name, else its folder does",
    )
    add(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="what to compare by, any number of times; unset: bbox/AP and segm/AP",
    )
    add("--images-per-epoch", type=int, metavar="N", help="where the runs do not tell")
    add(
        "--published",
        action="append",
        default=[],
        metavar="NAME",
        help="add published numbers, marked as such: a row of `vitdet zoo list`, a cell of the "
        "benchmark of pre-trained ViTs (benchmark_vit_b_mae), or all of a size (benchmark_vit_b)",
    )
    add("--markdown", type=Path, metavar="FILE", help="also write the table to a file")
    add("--plot", type=Path, metavar="FILE", help="also as a picture: .png, .pdf or .svg")
    add("--csv", type=Path, metavar="FILE", help="also every evaluation, comma-separated")
    add("--json", action="store_true", help="as JSON, in place of the table")
    add("--debug", action="store_true", help="show tracebacks")
    return parser
