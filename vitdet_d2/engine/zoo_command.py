# SPDX-License-Identifier: Apache-2.0
"""The commands ``vitdet zoo list``, ``show`` and ``download``."""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, get_args

from vitdet_d2.engine.arguments import OneLineParser
from vitdet_d2.engine.text_tables import aligned, print_facts
from vitdet_d2.engine.zoo_initialisations import list_initialisations, show_initialisation
from vitdet_d2.errors import RecipeError, UserError
from vitdet_d2.zoo.cached_file import CachedFile, cached_path
from vitdet_d2.zoo.catalogue import RELEASED, Backbone, Dataset, Head, Released, Size, find
from vitdet_d2.zoo.initialisation_table import INITIALISATIONS, Initialisation
from vitdet_d2.zoo.initialisations import initialisation, require_address
from vitdet_d2.zoo.models import download
from vitdet_d2.zoo.recipe_names import own_name, recipe_names

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
        row = _named(parsed.name)
        if isinstance(row, Initialisation):
            show_initialisation(row, as_json=parsed.json)
        else:
            _show(row, as_json=parsed.json)
    else:
        _download(parsed.names, as_json=parsed.json)


def _parser(prog: str) -> OneLineParser:
    parser = OneLineParser(
        prog=prog,
        description="The released ViTDet checkpoints, and pre-trained backbones to start from, by "
        "name.",
    )
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
    sizes = dict.fromkeys([*get_args(Size), *(row.size for row in INITIALISATIONS)])
    add("--size", choices=list(sizes), help="of the backbone")
    add(
        "--initialisations",
        action="store_true",
        help="pre-trained backbones in place of trained detectors",
    )
    show = actions.add_parser("show", parents=[common], help="show all that is known of one")
    show.add_argument("name", metavar="NAME")
    fetch = actions.add_parser("download", parents=[common], help="download and verify")
    fetch.add_argument("names", metavar="NAME", nargs="+")
    return parser


def _named(name: str) -> Released | Initialisation:
    """Return what has this name.

    Raises:
        RecipeError: nothing has; the message says what is near.
    """
    row = initialisation(name)
    if row is not None:
        return row
    try:
        return find(name)
    except RecipeError as error:
        names = [*(entry.name for entry in RELEASED), *(row.name for row in INITIALISATIONS)]
        near = difflib.get_close_matches(own_name(name).lower(), names, n=3)
        if not near or name in recipe_names():
            raise
        raise RecipeError(
            f"{name!r} is no name of the model zoo; did you mean {' or '.join(near)}?"
        ) from error


def _list(parsed: argparse.Namespace) -> None:
    """List trained detectors, or initialisations.

    Raises:
        RecipeError: a filter does not go with what is listed.
    """
    if parsed.initialisations:
        for name in ("dataset", "head", "backbone"):
            if getattr(parsed, name):
                raise RecipeError(
                    f"--{name.replace('_', '-')} chooses among trained detectors; "
                    "--initialisations goes with --size alone"
                )
        list_initialisations(parsed.size, as_json=parsed.json)
        return
    chosen = [
        entry
        for entry in RELEASED
        if parsed.dataset in (None, entry.dataset)
        and parsed.head in (None, entry.head)
        and parsed.backbone in (None, entry.backbone)
        and parsed.size in (None, entry.size)
    ]
    if parsed.json:
        print(json.dumps([describe(entry) for entry in chosen], indent=1))
        return
    rows = [list(_COLUMNS)]
    rows += [_cells(entry) for entry in chosen]
    for line in aligned(rows):
        print(line)
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
    print_facts(rows)


def _download(names: Sequence[str], *, as_json: bool) -> None:
    """Download all that can be had.

    Raises:
        UserError: some failed, after the others were fetched; of the first one's kind.
    """
    # A misspelt one, and one without an address, before any download.
    chosen = [_name_to_download(name) for name in names]
    done: list[dict[str, Any]] = []
    failed: list[UserError] = []
    for name in chosen:
        try:
            found = download(name)
        except UserError as error:
            failed.append(error)
            continue
        done.append({"name": name, "path": str(found.path), **asdict(found.record)})
        if not as_json:
            print(_downloaded_line(name, found))
    if as_json:
        print(json.dumps(done, indent=1))
    if failed:
        raise type(failed[0])("; ".join(str(error) for error in failed))


def _name_to_download(name: str) -> str:
    row = _named(name)
    if isinstance(row, Initialisation):
        require_address(row)
    return row.name


def _downloaded_line(name: str, found: CachedFile) -> str:
    verb = "downloaded" if found.downloaded else "in the cache"
    record = found.record
    verified = (
        f"the prefix {record.prefix} is of its {record.prefix_of}"
        if record.prefix is not None
        else "no published hash to compare with"
    )
    return f"{name}: {verb}, {record.bytes} bytes, sha256 {record.sha256}, {verified}: {found.path}"
