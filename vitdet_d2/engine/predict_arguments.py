# SPDX-License-Identifier: Apache-2.0
"""The command line of ``vitdet predict``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitdet_d2.data.image_file import MAX_PIXELS
from vitdet_d2.engine.arguments import OneLineParser, parser_with_examples
from vitdet_d2.engine.inference_dtype import NAMES
from vitdet_d2.errors import RecipeError

# As in Detectron2's demo: detections that a person takes for certain.
SCORE_THRESHOLD = 0.5

_OVERRIDE = re.compile(r"[+]?[A-Za-z_][\w.]*=.*")
_EPILOG = """\
which model (one of):
  --weights runs/mine                     a run folder or checkpoint of `vitdet train`
  --config-file RECIPE --weights FILE     any weights, with the recipe that they are for
  --model NAME                            a released model, downloaded once (`vitdet zoo list`)

which pictures:
  --input a.jpg b.png                     files
  --input photos                          a folder; with --recursive, its sub-folders too
  --input 'photos/**/*_left.png'          a quoted pattern

what it writes into --output:
  the pictures with boxes, masks and labels, under their own names, and predictions.json, a
  COCO-format file with images, categories, and annotations with score and run-length mask

exit codes: 0 all pictures done; 2 wrong usage or recipe; 3 weights or a picture could not be used
(the other pictures are done all the same); 130 / 143 interrupted by Ctrl-C /
SIGTERM, what was done is saved
"""


@dataclass(frozen=True, kw_only=True)
class PredictArguments:
    """What was asked for.

    Attributes:
        model: name of a released model; None: ``weights`` are given.
        config_file: path or name of a recipe; None: the one in the checkpoint.
        weights: a checkpoint, an address, or a run folder; None: ``model`` is given.
        input: files, folders and patterns.
        output: folder of the results.
        score_threshold: detections below it are left out.
        device: "auto", "cpu", "cuda" or "cuda:N".
        batch_size: pictures that go through the model at once.
        amp: compute in the recipe's mixed precision on a GPU.
        recursive: take the pictures of sub-folders too.
        pictures: whether pictures are drawn.
        overwrite: replace results of an earlier time.
        max_pixels: larger pictures are refused.
        json: print the summary as JSON.
        overrides: changes of the recipe.
        debug: show tracebacks of errors.
    """

    model: str | None = None
    config_file: str | None = None
    weights: str | None = None
    input: tuple[str, ...]
    output: Path
    score_threshold: float = SCORE_THRESHOLD
    device: str = "auto"
    batch_size: int = 1
    amp: bool = False
    dtype: str | None = None
    recursive: bool = False
    pictures: bool = True
    overwrite: bool = False
    max_pixels: int = MAX_PIXELS
    json: bool = False
    overrides: tuple[str, ...] = ()
    debug: bool = False


def parse_predict(argv: Sequence[str], prog: str = "vitdet predict") -> PredictArguments:
    """Read the arguments of ``vitdet predict``.

    Args:
        argv: without the program's name.
        prog: shown in messages.

    Raises:
        RecipeError: an argument is unknown, missing or contradicts another.
    """
    values = vars(_parser(prog).parse_intermixed_args(list(argv)))
    paths = [path for group in values.pop("input") for path in group]
    # `--input a.jpg key=value` reads both as pictures.
    swallowed = [p for p in paths if _OVERRIDE.fullmatch(p) and not Path(p).exists()]
    overrides = (*values.pop("overrides"), *swallowed)
    arguments = PredictArguments(
        **{**values, "output": Path(values["output"]).expanduser()},
        input=tuple(path for path in paths if path not in swallowed),
        overrides=overrides,
    )
    _check(arguments, prog)
    return arguments


def _parser(prog: str) -> OneLineParser:
    parser = parser_with_examples(
        prog, "Detect objects on pictures: annotated pictures and one COCO-style JSON.", _EPILOG
    )
    add = parser.add_argument
    add("--model", metavar="NAME", help="a released model, for example vitdet_b")
    add("--config-file", metavar="PATH|NAME", help="the recipe; unset: the one in the checkpoint")
    add("--weights", metavar="PATH", help="checkpoint, address or run folder")
    add("--input", nargs="+", action="append", required=True, metavar="PATH", help="see below")
    add("--output", required=True, metavar="DIR", help="folder for the results")
    add(
        "--score-threshold",
        type=_share,
        default=SCORE_THRESHOLD,
        metavar="T",
        help="leave out detections below it (default %(default)s)",
    )
    add("--device", default="auto", metavar="D", help="auto (default), cpu, cuda, cuda:1, ...")
    add("--batch-size", type=_positive, default=1, metavar="N", help="pictures at once (default 1)")
    add("--amp", action="store_true", help="on a GPU, compute in the recipe's train.amp.dtype")
    add("--dtype", choices=NAMES, help="compute in it (default: the recipe's, bf16 on a GPU)")
    add("--recursive", action="store_true", help="look for pictures in sub-folders too")
    add("--no-pictures", dest="pictures", action="store_false", help="write the JSON only")
    add("--overwrite", action="store_true", help="replace the results in the output folder")
    add(
        "--max-pixels",
        type=_positive,
        default=MAX_PIXELS,
        metavar="N",
        help="refuse larger pictures (default %(default)s)",
    )
    add("--json", action="store_true", help="print the summary as JSON")
    add("--debug", action="store_true", help="show tracebacks")
    add("overrides", nargs="*", metavar="key=value", help="changes of the recipe")
    return parser


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number of 0 to 1, got {text!r}")
    return value


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return value


def _check(arguments: PredictArguments, prog: str) -> None:
    """Refuse combinations that leave open which model is meant.

    Raises:
        RecipeError: they do.
    """
    given = arguments.config_file is not None or arguments.weights is not None
    if arguments.model is not None and given:
        other = "--weights" if arguments.weights is not None else "--config-file"
        raise RecipeError(
            f"--model names recipe and weights at once, {other} contradicts it; for a released "
            f"recipe with other weights give --config-file {arguments.model} --weights FILE"
        )
    if arguments.model is None and arguments.weights is None:
        missing = "--weights FILE for the recipe" if given else "--model NAME or --weights FILE"
        raise RecipeError(f"which model? give {missing}; see `{prog} --help`")
    if not arguments.input:
        raise RecipeError("--input: no picture named, only changes of the recipe")
