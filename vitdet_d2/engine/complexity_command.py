# SPDX-License-Identifier: Apache-2.0
"""``vitdet complexity``: what recipes cost, counted and measured, one row each."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vitdet_d2.engine.arguments import OneLineParser, parser_with_examples
from vitdet_d2.errors import RecipeError, UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from vitdet_d2.analysis.complexity import Row
    from vitdet_d2.analysis.job import Part, Phase, Precision

# Runs whose median counts, and runs before them: a CPU is slow, and has nothing to warm up but
# caches; the first runs on a GPU choose kernels and fill the allocator.
_REPEATS = {"cuda": (10, 3), "cpu": (3, 1)}

_EPILOG = """\
what is counted, without any data and without taking memory or time:
  parameters    exactly, by part: backbone, neck, RPN, box head, mask head
  FLOPs         two per multiply-add of convolutions and matrix products, attention included
                whichever kernel computes it, in Detectron2's layout with its window padding
  activations   numbers that convolutions and matrix products put out

what is measured, each in a process of its own (left out with --no-measure):
  inference     one batch, from uint8 images to detections
  training      one step: forward pass, backward pass, optimizer
  time          median of the repeats; memory: the peak, of the GPU's allocator or of the process

examples:
  vitdet complexity vitdet_b vitdet_l vitdet_h --no-measure
  vitdet complexity vitdet_ti --size 640 --batch 2 --csv cost.csv --plot cost.png
  vitdet complexity vitdet_b --device cuda train.activation_checkpointing=true
  vitdet complexity vitdet_b --vary train.amp.enabled=true --vary train.amp.enabled=false
  vitdet complexity vitdet_l --device cuda --memory-limit 24      does it fit on a 24 GB card?
  vitdet complexity vitdet_b cascade_swin_b mask_rcnn_pvt_small --size 1024 --no-measure --published

exit codes: 0 all done; 1 a recipe could not be counted or measured, for example for want of memory
(the rows of the others are there all the same); 2 wrong usage, recipe or override
"""

_OVERRIDE = re.compile(r"~[\w.]+|[+]?[A-Za-z_][\w.]*=.*", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class ComplexityArguments:
    """What was asked for.

    Attributes:
        recipes: paths or names.
        overrides: changes of every recipe.
        variants: further changes, each of which makes a row of every recipe; none: one row each.
        image_size: ``(H, W)`` in pixels; None: the recipe's.
        part: the whole detector, or its backbone (with neck) alone.
        measure: whether anything is measured.
        device: "auto", or as torch names it.
        batch: images of a measured run.
        amp: what autocast computes in.
        repeats: runs whose median counts; None: by the device.
        warmup: runs before them; None: by the device.
        num_objects: in a training image; None: as many as the heads take.
        memory_limit: bytes that a measured run may take; None: what there is.
        published: set the accuracy that authors published beside the cost.
        csv: file to write; None: none.
        plot: picture to write; None: none.
        json: print JSON in place of tables.
    """

    recipes: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None
    part: Part = "model"
    measure: bool = True
    device: str = "auto"
    batch: int = 1
    amp: Precision = "recipe"
    repeats: int | None = None
    warmup: int | None = None
    num_objects: int | None = None
    memory_limit: int | None = None
    published: bool = False
    csv: Path | None = None
    plot: Path | None = None
    json: bool = False


def main(argv: Sequence[str], prog: str) -> None:
    """Run ``vitdet complexity``.

    Args:
        argv: without the program's name.
        prog: shown in messages.

    Raises:
        RecipeError: wrong usage, an unknown recipe, or an override that does not fit; before any
            work.
        UserError: a recipe could not be counted or measured; after the rows of all are out.
    """
    arguments = parse_complexity(argv, prog)
    from vitdet_d2.analysis.complexity_tables import complexity_tables

    rows = _rows(arguments)
    if arguments.csv is not None:
        _write_csv(rows, arguments.csv)
    if arguments.plot is not None and any(row.count is not None for row in rows):
        from vitdet_d2.analysis.complexity_plot import plot_complexity

        plot_complexity(rows, arguments.plot)
    if arguments.json:
        print(json.dumps([row.describe() for row in rows], indent=1))
    else:
        print(complexity_tables(rows))
        if arguments.published:
            from vitdet_d2.analysis.published_cost import published_table

            print(f"\n{published_table(rows)}")
    failures = [reason for row in rows for reason in row.failures]
    if failures:
        raise UserError("; ".join(failures))


def parse_complexity(argv: Sequence[str], prog: str = "vitdet complexity") -> ComplexityArguments:
    """Read the arguments of ``vitdet complexity``.

    Args:
        argv: without the program's name.
        prog: shown in messages.

    Raises:
        RecipeError: an argument is unknown or missing, or names a file that cannot be written.
    """
    values = vars(_parser(prog).parse_intermixed_args(list(argv)))
    words = values.pop("words")
    values["variants"] = tuple(values["variants"])
    overrides = [w for w in words if _OVERRIDE.fullmatch(w) and not Path(w).exists()]
    recipes = [w for w in words if w not in overrides]
    if not recipes:
        raise RecipeError(f"which recipes? none is named; see `{prog} --help`")
    del values["debug"]
    arguments = ComplexityArguments(recipes=tuple(recipes), overrides=tuple(overrides), **values)
    from vitdet_d2.analysis.plots import check_outputs

    check_outputs([arguments.csv], arguments.plot)
    return arguments


def _parser(prog: str) -> OneLineParser:
    parser = parser_with_examples(
        prog,
        "What recipes cost: parameters, FLOPs, activations; memory and time, measured here.",
        _EPILOG,
    )
    add = parser.add_argument
    add("words", nargs="*", metavar="RECIPE|key=value", help="recipes, and changes of all of them")
    add("--vary", dest="variants", action="append", default=[], metavar="key=value",
        help="a row per recipe with this change; may be given several times")  # fmt: skip
    add("--size", dest="image_size", type=_size, metavar="N|HxW", help="of images, in pixels; "
        "unset: the recipe's")  # fmt: skip
    add("--part", choices=["model", "backbone"], default="model", help="backbone: with its neck")
    add("--no-measure", dest="measure", action="store_false", help="only count")
    add("--device", default="auto", metavar="D", help="auto (default), cpu, cuda, cuda:1, ...")
    add("--batch", type=_positive, default=1, metavar="N", help="images at once (default 1)")
    add("--amp", choices=["recipe", "off", "bf16", "fp16"], default="recipe",
        help="recipe (default): the recipe's in training on a GPU, else float32")  # fmt: skip
    add("--repeats", type=_positive, metavar="N", help="unset: 10 on a GPU, 3 on a CPU")
    add("--warmup", type=_positive, metavar="N", help="unset: 3 on a GPU, 1 on a CPU")
    add("--objects", dest="num_objects", type=_positive, metavar="N", help="in a training image; "
        "unset: as many as the heads take")  # fmt: skip
    add("--memory-limit", type=_gigabytes, metavar="GB", help="of a measured run (10^9 bytes)")
    add("--published", action="store_true", help="set the AP that the authors published beside "
        "the cost, in one more table")  # fmt: skip
    add("--csv", type=Path, metavar="FILE", help="write all numbers, one row per recipe")
    add("--plot", type=Path, metavar="FILE", help="draw a picture (.png, .pdf, .svg)")
    add("--json", action="store_true", help="print all numbers as JSON")
    add("--debug", action="store_true", help="show tracebacks")
    return parser


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(size) < 1:
        raise argparse.ArgumentTypeError(f"must be a side or HxW in pixels, got {text!r}")
    return size


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return value


def _gigabytes(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"must be a number of gigabytes above 0, got {text!r}")
    return int(value * 1e9)


def _rows(arguments: ComplexityArguments) -> list[Row]:
    """Count and measure every recipe.

    Raises:
        RecipeError: a recipe cannot be loaded, or the device is not there; before any work.
    """
    from vitdet_d2.analysis.complexity import Row
    from vitdet_d2.engine.build import resolve_device
    from vitdet_d2.engine.recipes import load_recipe

    device = resolve_device(arguments.device, "--device") if arguments.measure else None
    rows = [
        Row(recipe=name, variant=variant, part=arguments.part, batch=arguments.batch)
        for name in arguments.recipes
        for variant in arguments.variants or (None,)
    ]
    recipes = [load_recipe(row.recipe, _overrides(arguments, row)) for row in rows]
    rows = [_counted(arguments, row, cfg) for row, cfg in zip(rows, recipes, strict=True)]
    if arguments.published:
        rows = [_with_published(arguments, r, cfg) for r, cfg in zip(rows, recipes, strict=True)]
    if device is None:
        return rows
    return [_measured(arguments, row, str(device)) for row in rows]


def _overrides(arguments: ComplexityArguments, row: Row) -> tuple[str, ...]:
    return arguments.overrides + (() if row.variant is None else (row.variant,))


def _counted(arguments: ComplexityArguments, row: Row, cfg: DictConfig) -> Row:
    """Return a row with its counts."""
    from vitdet_d2.analysis.complexity import count_recipe
    from vitdet_d2.analysis.job import reason

    try:
        return replace(row, count=count_recipe(cfg, arguments.image_size, arguments.part))
    except Exception as error:  # of a model of any kind; the rows of the others shall not be lost
        return replace(row, error=reason(error))


def _with_published(arguments: ComplexityArguments, row: Row, cfg: DictConfig) -> Row:
    """Return a row with its authors' accuracy, which a changed recipe has none of."""
    from vitdet_d2.analysis.complexity import recipe_size
    from vitdet_d2.analysis.published import published_rows

    if _overrides(arguments, row):
        return row
    try:
        (published,) = published_rows(row.title)
    except RecipeError:
        return row
    try:
        return replace(row, published=published, own_size=recipe_size(cfg))
    except RecipeError:
        return replace(row, published=published)


def _measured(arguments: ComplexityArguments, row: Row, device: str) -> Row:
    """Return a row with what was measured of it."""
    from vitdet_d2.analysis.job import Job
    from vitdet_d2.analysis.measure import measure_apart

    if row.count is None:
        return row
    phases: tuple[Phase, ...] = ("inference", "training")
    outcomes = {}
    repeats, warmup = _REPEATS.get(device.partition(":")[0], _REPEATS["cuda"])
    for phase in phases:
        print(f"measuring {phase} of {row.title} ...", file=sys.stderr, flush=True)
        job = Job(
            recipe=row.recipe,
            overrides=_overrides(arguments, row),
            phase=phase,
            part=arguments.part,
            image_size=row.count.image_size,
            batch=arguments.batch,
            device=device,
            amp=arguments.amp,
            warmup=arguments.warmup or warmup,
            repeats=arguments.repeats or repeats,
            num_objects=arguments.num_objects,
            memory_limit=arguments.memory_limit,
        )
        outcomes[phase] = measure_apart(job)
    return replace(row, measured=outcomes)


def _write_csv(rows: Sequence[Row], path: Path) -> None:
    from vitdet_d2.analysis.complexity import columns
    from vitdet_d2.analysis.text_files import csv_text, write_text

    table = columns(rows)
    write_text(path, csv_text([list(table[0]), *(list(cells.values()) for cells in table)]))
