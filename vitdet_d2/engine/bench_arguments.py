# SPDX-License-Identifier: Apache-2.0
"""The command line of ``vitdet bench``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitdet_d2.engine.arguments import OneLineParser, parser_with_examples
from vitdet_d2.errors import RecipeError

_EPILOG = """\
Two processes, ours and Detectron2's, do the same work in turns (A B A B): same weights, inputs,
batch and threads. Before a ratio is printed, losses, outputs and gradients of both are compared; a
ratio whose comparison fails is void. "As shipped" is Detectron2 with the settings of its own
recipes, "tuned" the same in our precision, with ground truth as bitmaps.

axes: training, inference, backbone (with neck), loader (files to samples), masks (pasting and
encoding), evaluation (COCO's AP), syncs (host synchronisations of a training step). docs/bench.md
tells what each measures.

examples:
  vitdet bench                                      # everything that this machine can measure
  vitdet bench --axes training --model b,l --batch 1,4,8 --device cuda --markdown gpu.md
  vitdet bench --detectron2 ~/detectron2 --axes backbone --device cpu --threads 2
  vitdet bench --axes training --no-detectron2 train.compile=true   # ours alone, compiled
  vitdet bench --growth growth.png --model ti --device cpu --sizes 256,512

exit codes: 0 all measured, or unmeasured for want of a device; 1 something failed, or a comparison
did; 2 wrong usage, recipe or override
"""

AXES = ("training", "inference", "backbone", "loader", "masks", "evaluation", "syncs")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class BenchArguments:
    """What was asked for.

    Attributes:
        overrides: changes of the recipes, on all sides as far as they concern the model.
        axes: what is measured.
        models: sizes of `vitdet_SIZE`, or recipes.
        image_size: side of the images in pixels; None: the recipe's.
        batches: images of a run.
        precisions: what ours and tuned Detectron2 compute in.
        device: "auto", or as torch names it.
        threads: of every process; None: as torch chooses.
        rounds: turns of every side; None: by the device.
        runs: timed runs of a turn; None: by the device.
        warmup: runs of every side before; None: by the device.
        num_objects: in every image of training.
        detectron2: folder that has the package; None: the environment's.
        alone: leave Detectron2 out.
        data: folder in COCO's layout; None: made-up images.
        weights: checkpoint that all sides load; None: random ones.
        growth: picture of how cost grows with image side, batch and model; None: none.
        sizes: image sides of that picture, in pixels.
        markdown: file of the report; None: none.
        json_file: file of all numbers; None: none.
        json: print JSON in place of tables.
    """

    overrides: tuple[str, ...] = ()
    axes: tuple[str, ...] = AXES
    models: tuple[str, ...] = ("b",)
    image_size: int | None = None
    batches: tuple[int, ...] | None = None
    precisions: tuple[str, ...] | None = None
    device: str = "auto"
    threads: int | None = None
    rounds: int | None = None
    runs: int | None = None
    warmup: int | None = None
    num_objects: int = 7
    detectron2: Path | None = None
    alone: bool = False
    data: Path | None = None
    weights: str | None = None
    growth: Path | None = None
    sizes: tuple[int, ...] = (512, 768, 1024, 1536, 2048)
    markdown: Path | None = None
    json_file: Path | None = None
    json: bool = False


def parse_bench(argv: Sequence[str], prog: str = "vitdet bench") -> BenchArguments:
    """Read the arguments of ``vitdet bench``.

    Args:
        argv: without the program's name.
        prog: shown in messages.

    Raises:
        RecipeError: an argument is unknown or contradicts another, or names a file that cannot be
            written or a folder that is not there.
    """
    values = vars(_parser(prog).parse_intermixed_args(list(argv)))
    del values["debug"]
    values["overrides"] = tuple(values["overrides"])
    wrong = [text for text in values["overrides"] if "=" not in text and text[:1] != "~"]
    if wrong:
        raise RecipeError(
            f"{wrong[0]!r}: expected key=value; models are named with --model, axes with --axes"
        )
    arguments = BenchArguments(**values)
    _check(arguments)
    return arguments


def _check(arguments: BenchArguments) -> None:
    """Refuse what cannot work, before anything runs.

    Raises:
        RecipeError: it cannot.
    """
    if arguments.alone and arguments.detectron2 is not None:
        raise RecipeError("--no-detectron2 and --detectron2 contradict each other; give one")
    folder = arguments.detectron2
    if folder is not None and not (folder / "detectron2/__init__.py").is_file():
        raise RecipeError(
            f"--detectron2 {folder}: expected a checkout, a folder with detectron2/__init__.py"
        )
    if arguments.data is not None and not arguments.data.is_dir():
        raise RecipeError(f"--data {arguments.data}: no such folder")
    from vitdet_d2.analysis.plots import check_outputs

    check_outputs([arguments.markdown, arguments.json_file], arguments.growth)


def _parser(prog: str) -> OneLineParser:
    parser = parser_with_examples(
        prog, "Measure speed and memory, beside Detectron2 where there is one.", _EPILOG
    )
    add = parser.add_argument
    add("overrides", nargs="*", metavar="key=value", help="changes of the recipes")
    add("--axes", type=_words(AXES), default=AXES, metavar="A,B", help="what (default: all)")
    add("--model", dest="models", type=_words(()), default=("b",), metavar="A,B",
        help="ti, s, b, l, h, or recipes by name or path (default b)")  # fmt: skip
    add("--json", action="store_true", help="print all numbers as JSON")
    add("--json-file", type=Path, metavar="FILE", help="write all numbers as JSON")
    add("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    add("--debug", action="store_true", help="show tracebacks")
    _add_sizes(parser.add_argument_group("the work"))
    _add_measuring(parser.add_argument_group("the measurement"))
    return parser


def _add_sizes(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--image-size", type=_positive, metavar="N", help="side of images; unset: the recipe's")
    add("--batch", dest="batches", type=_numbers, metavar="1,4", help="images at once; unset: 1, "
        "4, 8 in training and 1, 8 in inference on a GPU, 1 on a CPU")  # fmt: skip
    add("--precision", dest="precisions", type=_words(PRECISIONS), metavar="A,B", help="fp32, "
        "bf16; unset: both, in training that of the recipe")  # fmt: skip
    add("--objects", dest="num_objects", type=_positive, default=7, metavar="N",
        help="in a training image (default 7, as COCO has on average)")  # fmt: skip
    add("--data", type=Path, metavar="DIR", help="a data set in COCO's layout for loader and "
        "evaluation; unset: made-up images of COCO's dimensions")  # fmt: skip
    add("--weights", metavar="FILE|NAME", help="a checkpoint for all sides; unset: random weights")
    add("--growth", type=Path, metavar="FILE", help="draw how time and memory of inference grow "
        "with image side, batch and model, in place of the axes")  # fmt: skip
    add("--sizes", type=_numbers, default=(512, 768, 1024, 1536, 2048), metavar="N,M",
        help="image sides of --growth (default 512,768,1024,1536,2048)")  # fmt: skip


def _add_measuring(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--detectron2", type=Path, metavar="DIR", help="a checkout, run as it is, uncompiled; "
        "unset: the one that is installed, if any")  # fmt: skip
    add("--no-detectron2", dest="alone", action="store_true", help="measure ours alone")
    add("--device", default="auto", metavar="D", help="auto (default): a GPU's rows on a GPU, a "
        "CPU's on the CPU; cpu, cuda: all models there")  # fmt: skip
    add("--threads", type=_positive, metavar="N", help="of every process; unset: as torch chooses")
    add("--rounds", type=_positive, metavar="N", help="turns of every side; unset: 5, GPU 10")
    add("--runs", type=_positive, metavar="N", help="timed runs of a turn; unset: 1, GPU 3")
    add("--warmup", type=_count, metavar="N", help="runs of every side before; unset: 1, GPU 5")


def _words(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Return a reader of words with commas between them.

    Raises:
        ArgumentTypeError: a word is not known, or there is none.
    """

    def read(text: str) -> tuple[str, ...]:
        words = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
        unknown = [word for word in words if known and word not in known]
        if unknown or not words:
            raise argparse.ArgumentTypeError(
                f"expected some of {', '.join(known)}, got {text!r}" if known else "names nothing"
            )
        return words

    return read


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return value


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got {text!r}")
    return int(text)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_positive(word.strip()) for word in text.split(","))
