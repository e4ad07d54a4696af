# SPDX-License-Identifier: Apache-2.0
"""``vitdet predict``: pictures in, annotated pictures and one COCO-style JSON out.

One picture at a time is in memory (or one batch), whatever their number. A picture that cannot be
used is told by name and noted in the JSON, and the others go on.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import torch
from detectron2.structures import Instances
from numpy.typing import NDArray

import vitdet_d2
from vitdet_d2 import runtime
from vitdet_d2.atomic_write import atomic_write
from vitdet_d2.data.image_file import UprightImage, read_upright
from vitdet_d2.data.image_paths import FoundImages, find_images
from vitdet_d2.engine.detector import Detector, load_detector, load_released
from vitdet_d2.engine.predict_arguments import PredictArguments
from vitdet_d2.engine.predictor import Predictor
from vitdet_d2.engine.run_folder import make_writable
from vitdet_d2.engine.terminal import quiet_third_parties, shows_bars, terminal_logging
from vitdet_d2.errors import DataError, RecipeError, StoppedBySignal, UserError
from vitdet_d2.evaluation.detect import pasted
from vitdet_d2.evaluation.detection_file import DetectionFile
from vitdet_d2.evaluation.pictures import draw_detections, load_visualizer
from vitdet_d2.progress_bar import bar

logger = logging.getLogger(__name__)

PREDICTIONS_FILE = "predictions.json"
# Notes of one kind that are told; photographs of a telephone are all turned by EXIF.
_TOLD = 5
_SHOWN_FAILURES = 3
# Formats without loss keep their pixels; a drawing on a photograph is one.
_LOSSLESS = frozenset((".png", ".gif", ".bmp", ".dib", ".ppm", ".pgm", ".pnm"))
_JPEG_QUALITY = 92


def run_predict(arguments: PredictArguments) -> None:
    """Predict as asked, and print a summary.

    Args:
        arguments: of the command line.

    Raises:
        RecipeError: wrong usage, before anything is written.
        DataError: no picture was found, before anything is written; or some could not be used,
            after the others were done.
        WeightsError: the weights cannot be used.
        UserError: nothing can be drawn, or the output folder cannot be written to.
        StoppedBySignal: interrupted; what was done is saved.
    """
    quiet_third_parties()
    with terminal_logging():
        images = find_images(
            arguments.input, recursive=arguments.recursive, exclude=arguments.output
        )
        if images.skipped:
            logger.info("Left out %d files without an ending of a picture", len(images.skipped))
        targets = plan_pictures(images) if arguments.pictures else {}
        _check_output(arguments, images, targets)
        if arguments.pictures:
            load_visualizer()  # a missing package is told before the work
        detector = _load(arguments)
        if not detector.classes.is_known:
            logger.warning("Classes are numbered: %s", detector.classes.source)
        make_writable(arguments.output)
        _run(arguments, images, targets, detector)


def _load(arguments: PredictArguments) -> Detector:
    if arguments.model is not None:
        return load_released(arguments.model, arguments.overrides, arguments.device)
    assert arguments.weights is not None, "the command line asks for weights"
    return load_detector(
        arguments.weights, arguments.config_file, arguments.overrides, arguments.device
    )


def plan_pictures(images: FoundImages) -> dict[str, str]:
    """Return the file name of each drawing, below the output folder.

    Args:
        images: to draw on. A drawing has the name of its picture and ends in ``.png`` or ``.jpg``;
            where two would have the same (``a.jpg``, ``a.tif``), the later one is ``a_2.jpg``.
    """
    targets: dict[str, str] = {}
    taken = {PREDICTIONS_FILE}
    for name in images.names:
        path = PurePosixPath(name)
        ending = ".png" if path.suffix.lower() in _LOSSLESS else ".jpg"
        stems = itertools.chain([path.stem], (f"{path.stem}_{i}" for i in itertools.count(2)))
        # Some file systems take `A.jpg` and `a.jpg` for one.
        free = (str(path.with_name(stem + ending)) for stem in stems)
        target = next(candidate for candidate in free if candidate.casefold() not in taken)
        taken.add(target.casefold())
        targets[name] = target
    return targets


def _check_output(
    arguments: PredictArguments, images: FoundImages, targets: Mapping[str, str]
) -> None:
    """Refuse to write over the pictures that are read, ever, and over other files, unasked.

    Raises:
        RecipeError: a file would be lost.
    """
    folder = arguments.output
    sources = {images.path(name).resolve() for name in images.names}
    files = [folder / PREDICTIONS_FILE, *(folder / target for target in targets.values())]
    for file in files:
        if file.resolve() in sources:
            raise RecipeError(
                f"--output {folder}: {file} is one of the pictures to read, and would be replaced; "
                "name another folder"
            )
        if file.exists() and not arguments.overwrite:
            raise RecipeError(
                f"--output {folder}: {file.relative_to(folder)} is there already; replace it with "
                "--overwrite, or name another folder"
            )


def _run(
    arguments: PredictArguments,
    images: FoundImages,
    targets: Mapping[str, str],
    detector: Detector,
) -> None:
    """Work through the pictures.

    Raises:
        DataError: some could not be used.
        StoppedBySignal: interrupted.
    """
    predictor = Predictor.from_detector(
        detector,
        score_threshold=arguments.score_threshold,
        amp=arguments.amp,
        dtype=arguments.dtype,
    )
    path = arguments.output / PREDICTIONS_FILE
    start = time.monotonic()
    stopped_by: signal.Signals | None = None
    with atomic_write(path) as raw:
        classes = detector.classes
        info = _info(arguments, images, detector)
        file = DetectionFile(raw, classes.names, classes.category_ids, info)
        job = _Job(arguments, images, targets, predictor, file)
        try:
            with _sigterm_interrupts():
                job.work()
        except KeyboardInterrupt as error:
            stopped_by = signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT
        file.finish()
    seconds = time.monotonic() - start
    _print_summary(arguments, file, path, seconds, num_pictures=job.num_pictures)
    if stopped_by is not None:
        raise StoppedBySignal(
            stopped_by,
            f"interrupted after {file.num_images} of {len(images.names)} pictures, which are in "
            f"{path}",
        )
    if file.failed:
        raise DataError(_describe_failed(file, path))


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which batch systems send, where Ctrl-C is a `KeyboardInterrupt`."""


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does."""
    # Python allows handlers in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise _Terminated

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        # None: set by a library outside Python, which cannot be put back.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)


class _Job:
    """One pass over the pictures."""

    def __init__(
        self,
        arguments: PredictArguments,
        images: FoundImages,
        targets: Mapping[str, str],
        predictor: Predictor,
        file: DetectionFile,
    ) -> None:
        self._arguments = arguments
        self._images = images
        self._targets = targets
        self._predictor = predictor
        self._file = file
        self._told: Counter[str] = Counter()
        self.num_pictures = 0

    def work(self) -> None:
        """Read, predict, write and draw, batch by batch."""
        names = iter(self._images.names)
        with bar(
            total=len(self._images.names), desc="predict", unit="img", disable=not shows_bars()
        ) as shown:
            while batch := list(itertools.islice(names, self._arguments.batch_size)):
                read = list(self._read(batch))
                for name, image, instances in self._predict(read):
                    self._record(name, image, instances)
                shown.update(len(batch))

    def _read(self, names: Sequence[str]) -> Iterator[tuple[str, UprightImage]]:
        for name in names:
            try:
                path = self._images.path(name)
                image = read_upright(path, max_pixels=self._arguments.max_pixels)
            except (DataError, MemoryError) as error:
                self._fail(name, error)
                continue
            for note in image.notes:
                self._tell(name, note)
            yield name, image

    def _predict(
        self, batch: Sequence[tuple[str, UprightImage]]
    ) -> Iterator[tuple[str, UprightImage, Instances]]:
        """Yield detections; where a batch fails, its pictures are tried one by one."""
        try:
            found = self._predictor.predict_regions([image.pixels for _, image in batch])
        except (UserError, MemoryError, torch.OutOfMemoryError) as error:
            if len(batch) > 1:
                for one in batch:
                    yield from self._predict([one])
                return
            self._fail(batch[0][0], error)
            return
        for (name, image), instances in zip(batch, found, strict=True):
            yield name, image, instances

    def _record(self, name: str, image: UprightImage, instances: Instances) -> None:
        boxes = instances.pred_boxes.tensor
        if not bool(torch.isfinite(boxes).all() and torch.isfinite(instances.scores).all()):
            self._fail(name, DataError("the model gave detections that are not finite"))
            return
        target = self._targets.get(name, "")
        if target:
            self._draw(self._arguments.output / target, image.pixels, instances)
        self._file.add(name, instances, notes=image.notes, picture=target)

    def _draw(self, path: Path, pixels: NDArray[Any], instances: Instances) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        classes = self._predictor.classes
        picture = draw_detections(
            pixels, pasted(instances), None if classes is None else classes.names
        )
        # Through a temporary name: a kill leaves no half of a picture behind.
        with atomic_write(path) as file:
            kind = "PNG" if path.suffix == ".png" else "JPEG"
            picture.save(cast("IO[bytes]", file), format=kind, quality=_JPEG_QUALITY)
        self.num_pictures += 1

    def _fail(self, name: str, error: BaseException) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, UserError):
            reason = f"not enough memory ({reason}); make it smaller, or raise --score-threshold"
        reason = reason.removeprefix(f"{self._images.path(name)}: ")
        logger.warning("%s: %s", name, reason)
        self._file.add_failed(name, reason)

    def _tell(self, name: str, note: str) -> None:
        kind = re.sub(r"\d+", "N", note)
        self._told[kind] += 1
        if self._told[kind] <= _TOLD:
            logger.info("%s: %s", name, note)
        elif self._told[kind] == _TOLD + 1:
            logger.info("%s: %s; further ones are in %s", name, note, PREDICTIONS_FILE)


def _info(arguments: PredictArguments, images: FoundImages, detector: Detector) -> dict[str, Any]:
    used = runtime.current()
    return {
        "description": "detections of `vitdet predict`",
        "vitdet_d2": vitdet_d2.__version__,
        "detectron2": f"{used.name} {used.version}",
        "weights": detector.weights,
        "recipe": arguments.model or arguments.config_file or "in the weights",
        "overrides": list(arguments.overrides),
        "image_root": str(images.root),
        "score_threshold": arguments.score_threshold,
        "classes_from": detector.classes.source,
        "date_created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _print_summary(
    arguments: PredictArguments,
    file: DetectionFile,
    path: Path,
    seconds: float,
    *,
    num_pictures: int,
) -> None:
    rate = file.num_images / seconds if seconds > 0 else 0.0
    if arguments.json:
        summary = {
            "images": file.num_images,
            "detections": file.num_detections,
            "failed": [dict(row) for row in file.failed],
            "pictures": num_pictures,
            "output": str(arguments.output),
            "predictions": str(path),
            "seconds": round(seconds, 3),
            "images_per_second": round(rate, 3),
        }
        print(json.dumps(summary, indent=1))
        return
    failed = f", {len(file.failed)} failed" if file.failed else ""
    print(
        f"{file.num_images} pictures{failed}, {file.num_detections} detections with score >= "
        f"{arguments.score_threshold:g}, {rate:.2f} pictures/s; results in {path}"
    )


def _describe_failed(file: DetectionFile, path: Path) -> str:
    rows = [f"{row['file_name']}: {row['reason']}" for row in file.failed]
    more = f"; ... (all in {path})" if len(rows) > _SHOWN_FAILURES else ""
    return (
        f"{len(rows)} of {len(rows) + file.num_images} pictures could not be used, the others are "
        f"done: {'; '.join(rows[:_SHOWN_FAILURES])}{more}"
    )
