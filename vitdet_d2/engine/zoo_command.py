# SPDX-License-Identifier: Apache-2.0
"""The commands ``vitdet zoo list``, ``show`` and ``download``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, get_args

from vitdet_d2.engine.arguments import OneLineParser
from vitdet_d2.errors import UserError
from vitdet_d2.zoo.cached_file import CachedFile, cached_path
from vitdet_d2.zoo.catalogue import RELEASED, Backbone, Dataset, Head, Released, Size, find
from vitdet_d2.zoo.models import download
from vitdet_d2.zoo.recipe_names import recipe_names

# Column titles, and how each value is written.
_COLUMNS = {
    "name": "{name}",
    "data": "{dataset}",
    "head": "{head}",
    "backbone": "{backbone} {size}",
    "box AP": "{box_ap:.1f}",
    "mask AP": "{mask_ap:.1f}",
    "train s": "{train_seconds:.3f}",
    "infer s": "{infer_seconds:.3f}",
    "GB": "{memory_gb:.1f}{mark}",
}
_MARKS = {True: "*", False: ""}


def main(argv: Sequence[str], prog: str) -> None:
    """Run ``vitdet zoo``.

    Args:
        argv: without the program's name.
        prog: shown in messages.

    Raises:
        UserError: wrong usage, an unknown name, or a failed download.
    """
    parsed = _parser(prog).parse_args(list(argv))
    if parsed.action == "list":
        _list(parsed)
    elif parsed.action == "show":
        _show(find(parsed.name), as_json=parsed.json)
    else:
        _download(parsed.names, as_json=parsed.json)


def _parser(prog: str) -> OneLineParser:
    parser = OneLineParser(prog=prog, description="The released ViTDet checkpoints, by name.")
    # A parent, so that it may stand behind the action.
    common = OneLineParser(add_help=False)
    common.add_argument("--json", action="store_true", help="as JSON")
    common.add_argument("--debug", action="store_true", help="show tracebacks")
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|download")
    add = actions.add_parser(
        "list", parents=[common], help="list them, with published accuracy and cost"
    ).add_argument
    add("--dataset", choices=get_args(Dataset), help="trained on")
    add("--head", choices=get_args(Head))
    add("--backbone", choices=get_args(Backbone))
    add("--size", choices=get_args(Size), help="of the backbone")
    add("--runs-here", action="store_true", help="only those that can be built")
    show = actions.add_parser("show", parents=[common], help="show all that is known of one")
    show.add_argument("name", metavar="NAME")
    fetch = actions.add_parser("download", parents=[common], help="download and verify")
    fetch.add_argument("names", metavar="NAME", nargs="+")
    return parser


def _list(parsed: argparse.Namespace) -> None:
    chosen = [
        entry
        for entry in RELEASED
        if parsed.dataset in (None, entry.dataset)
        and parsed.head in (None, entry.head)
        and parsed.backbone in (None, entry.backbone)
        and parsed.size in (None, entry.size)
        and (entry.runs_here or not parsed.runs_here)
    ]
    if parsed.json:
        print(json.dumps([describe(entry) for entry in chosen], indent=1))
        return
    rows = [list(_COLUMNS)]
    rows += [_cells(entry) for entry in chosen]
    for row, entry in zip(rows, [None, *chosen], strict=True):
        widths = (max(len(cell) for cell in column) for column in zip(*rows, strict=True))
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip() + ("" if entry is None or entry.runs_here else "  (backbone not here)"))
    print(
        f"{len(chosen)} of {len(RELEASED)} checkpoints. AP and cost as published: seconds per "
        "image, GB in training (*: with activation checkpointing), on A100."
    )


def _cells(entry: Released) -> list[str]:
    facts = {**asdict(entry), "mark": _MARKS[entry.activation_checkpointing]}
    return [form.format(**facts) for form in _COLUMNS.values()]


def describe(entry: Released) -> dict[str, Any]:
    """Return all that is known of a released checkpoint, as plain data.

    Args:
        entry: of the catalogue.
    """
    cached = cached_path(entry.address)
    return {
        **asdict(entry),
        "num_classes": entry.num_classes,
        "aliases": list(entry.aliases),
        "address": entry.address,
        "recipe": entry.name if entry.name in recipe_names() else None,
        "runs_here": entry.runs_here,
        "cached": None if cached is None else str(cached),
    }


def _show(entry: Released, *, as_json: bool) -> None:
    facts = describe(entry)
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    memory = " (with activation checkpointing)" if entry.activation_checkpointing else ""
    rows = {
        "name": entry.name,
        "also called": ", ".join(entry.aliases),
        "data set": f"{entry.dataset}, {entry.num_classes} classes",
        "model": f"{entry.head} on {entry.backbone} {entry.size}, pre-trained: {entry.pretraining}",
        "runs here": "yes" if entry.runs_here else f"no, the {entry.backbone} backbone is missing",
        "recipe": facts["recipe"] or "none",
        "published": f"{entry.box_ap:.1f} box AP, {entry.mask_ap:.1f} mask AP; "
        f"{entry.epochs} epochs",
        "published cost": f"{entry.train_seconds:.3f} s per iteration and {entry.memory_gb:.1f} GB"
        f"{memory} in training, {entry.infer_seconds:.3f} s per image, on A100",
        "model id": entry.model_id,
        "address": entry.address,
        "hash prefix": entry.hash_prefix,
        "cached": facts["cached"] or "no",
    }
    width = max(len(title) for title in rows)
    for title, value in rows.items():
        print(f"{title.ljust(width)}  {value}")


def _download(names: Sequence[str], *, as_json: bool) -> None:
    """Download all that can be had.

    Raises:
        UserError: some failed, after the others were fetched; of the first one's kind.
    """
    entries = [find(name) for name in names]  # a misspelt one before any download
    done: list[dict[str, Any]] = []
    failed: list[UserError] = []
    for entry in entries:
        try:
            found = download(entry.name)
        except UserError as error:
            failed.append(error)
            continue
        done.append({"name": entry.name, "path": str(found.path), **asdict(found.record)})
        if not as_json:
            print(_downloaded_line(entry, found))
    if as_json:
        print(json.dumps(done, indent=1))
    if failed:
        raise type(failed[0])("; ".join(str(error) for error in failed))


def _downloaded_line(entry: Released, found: CachedFile) -> str:
    verb = "downloaded" if found.downloaded else "in the cache"
    record = found.record
    return (
        f"{entry.name}: {verb}, {record.bytes} bytes, sha256 {record.sha256}, the prefix "
        f"{record.prefix} is of its {record.prefix_of}: {found.path}"
    )
