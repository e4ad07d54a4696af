# SPDX-License-Identifier: Apache-2.0
"""The embedded quick-start data set: real handwritten digits on varied backgrounds, with masks.

The 1,797 scanned digits (8x8 grey values) that scikit-learn ships are enlarged, inked and placed on
drawn backgrounds, and written as a COCO-format data set::

    ROOT/VERSION/annotations/instances_{train,val}.json
    ROOT/VERSION/{train,val}/000001.jpg ...
    ROOT/VERSION/manifest.json          what a whole data set must consist of

Masks are COCO run lengths, not polygons: a 0, 6, 8 or 9 has holes, which COCO polygons lack.
Recipes therefore set ``instance_mask_format="bitmask"``.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ..errors import DataError
from .cache import cache_folder
from .digit_pictures import box_of, draw_picture

# Part of the folder's name: raise it with every change of what is drawn or written.
GENERATOR_VERSION = 3
CLASS_NAMES = tuple("0123456789")
# COCO numbers categories from 1.
CATEGORY_IDS = {index + 1: index for index in range(len(CLASS_NAMES))}
NUM_TRAIN, NUM_VAL, IMAGE_SIZE = 4000, 200, 192

# Every fifth sample of each class is held out.
HELD_OUT = 0.2
JPEG_QUALITY = 92

Split = Literal["train", "val"]


@dataclass(frozen=True, kw_only=True)
class DigitsPaths:
    """Where the digits data set lies."""

    root: Path
    train_json: Path
    train_images: Path
    val_json: Path
    val_images: Path


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """Everything that decides what is drawn."""

    num_train: int
    num_val: int
    image_size: int
    seed: int

    def version(self) -> str:
        text = json.dumps({"generator": GENERATOR_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def paths(self, root: Path) -> DigitsPaths:
        folder = root / self.version()
        return DigitsPaths(
            root=folder,
            train_json=folder / "annotations" / "instances_train.json",
            train_images=folder / "train",
            val_json=folder / "annotations" / "instances_val.json",
            val_images=folder / "val",
        )


def build_digits(
    root: str | os.PathLike[str],
    *,
    num_train: int = NUM_TRAIN,
    num_val: int = NUM_VAL,
    image_size: int = IMAGE_SIZE,
    seed: int = 0,
) -> DigitsPaths:
    """Write the digits data set below ``root``, unless it is there and whole.

    The folder appears by one rename, so that it is complete or absent; a damaged one is replaced.

    Args:
        root: cache folder, made when absent; the data set is put in a subfolder of it, whose name
            is a hash of the other arguments.
        num_train: training images, >= 1.
        num_val: held-out images, >= 1, made only of samples that no training image holds.
        image_size: side of the square images in pixels, >= 64.
        seed: of everything that is drawn at random.

    Returns:
        The paths of the two annotation files and image folders.

    Raises:
        DataError: scikit-learn is missing, an argument is out of range, or the folder cannot be
            written.
    """
    if num_train < 1 or num_val < 1 or image_size < 64:
        raise DataError(
            "digits: expected num_train >= 1, num_val >= 1 and image_size >= 64, "
            f"got {num_train}, {num_val} and {image_size}"
        )
    settings = _Settings(num_train=num_train, num_val=num_val, image_size=image_size, seed=seed)
    root = Path(root).expanduser()
    paths = settings.paths(root)
    if _is_whole(paths.root):
        return paths
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _one_builder(root):
            if not _is_whole(paths.root):
                _build(paths, settings)
    except OSError as error:
        raise DataError(
            f"digits: cannot write the data set below {root} ({error.strerror or error}); "
            "free some space or name another folder with VITDET_D2_CACHE"
        ) from error
    return paths


def register_digits() -> None:
    """Register ``digits_train`` and ``digits_val``, which are drawn when first loaded.

    Calling it again does nothing; a name that somebody else registered is left alone.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog

    settings = _Settings(num_train=NUM_TRAIN, num_val=NUM_VAL, image_size=IMAGE_SIZE, seed=0)
    paths = settings.paths(cache_folder("digits"))
    files = {
        "digits_train": (paths.train_json, paths.train_images),
        "digits_val": (paths.val_json, paths.val_images),
    }
    for name, (json_file, image_root) in files.items():
        if name in DatasetCatalog.list():
            continue
        DatasetCatalog.register(name, _Loader(name=name))
        MetadataCatalog.get(name).set(
            json_file=str(json_file),
            image_root=str(image_root),
            evaluator_type="coco",
            thing_classes=list(CLASS_NAMES),
            thing_dataset_id_to_contiguous_id=dict(CATEGORY_IDS),
        )


@dataclass(frozen=True, kw_only=True)
class _Loader:
    """Catalogue entry: draws the data set if need be, and reads one part of it."""

    name: str

    def __call__(self) -> list[dict[str, Any]]:
        from detectron2.data.datasets import load_coco_json

        paths = build_digits(cache_folder("digits"))
        if self.name == "digits_train":
            return load_coco_json(str(paths.train_json), str(paths.train_images), self.name)
        return load_coco_json(str(paths.val_json), str(paths.val_images), self.name)


def load_samples() -> tuple[np.ndarray, np.ndarray]:
    """Read the scanned digits.

    Returns:
        ``(1797, 8, 8)`` uint8 grey values, 0 (paper) to 255 (ink), and ``(1797,)`` int64 classes.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "the digits data set needs scikit-learn, which is not installed; "
            "run: pip install 'vitdet_d2[quickstart]'"
        ) from error
    digits = load_digits()
    # The scans count ink in 4x4 blocks: 0 to 16.
    scans = np.minimum(digits.images.astype(np.int64) * 16, 255).astype(np.uint8)
    return scans, digits.target.astype(np.int64)


def split_samples(classes: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide the samples into disjoint training and held-out ones, class by class.

    Args:
        classes: ``(N,)`` class of each sample.
        seed: of the shuffle.

    Returns:
        Sorted indices of the training samples and of the held-out ones.
    """
    random = np.random.RandomState([seed, 0])
    train, val = [], []
    for label in np.unique(classes):
        members = random.permutation(np.flatnonzero(classes == label))
        held_out = max(1, int(len(members) * HELD_OUT))
        val.append(members[:held_out])
        train.append(members[held_out:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(val))


def _is_whole(folder: Path) -> bool:
    """Whether every file of the manifest is there, with its size, and JSON files with their hash.

    4,200 ``stat`` calls, some 20 ms; the pictures' bytes are not read.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        for name, (size, digest) in manifest["files"].items():
            if (folder / name).stat().st_size != size:
                return False
            if digest and hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


@contextmanager
def _one_builder(root: Path) -> Iterator[None]:
    """Let other processes of this machine wait for the one that draws.

    Only to save work: without working locks, as on some cluster file systems, each draws its own
    and the first rename wins.
    """
    with (root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass
        yield


def _build(paths: DigitsPaths, settings: _Settings) -> None:
    """Draw everything in a temporary folder and rename it to its place."""
    for left_over in paths.root.parent.glob(".*-*"):
        # Of a process that was killed, surely, after a day.
        if left_over.is_dir() and time.time() - left_over.stat().st_mtime > 86400:
            shutil.rmtree(left_over, ignore_errors=True)
    samples, classes = load_samples()
    train, val = split_samples(classes, settings.seed)
    work = Path(tempfile.mkdtemp(prefix=f".{paths.root.name}-", dir=paths.root.parent))
    try:
        parts: list[tuple[Split, int, np.ndarray]] = [
            ("train", settings.num_train, train),
            ("val", settings.num_val, val),
        ]
        for split, num_images, members in parts:
            _write_split(work, split, num_images, samples, classes, members, settings)
        _write_manifest(work, settings)
        # Private by default; the cache may be shared.
        work.chmod(0o755)
        if paths.root.exists() and not _is_whole(paths.root):
            damaged = work.with_name(work.name + "-damaged")
            paths.root.rename(damaged)
            shutil.rmtree(damaged, ignore_errors=True)
        if not paths.root.exists():
            work.rename(paths.root)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_manifest(folder: Path, settings: _Settings) -> None:
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            is_json = path.suffix == ".json"
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if is_json else ""
            files[path.relative_to(folder).as_posix()] = (path.stat().st_size, digest)
    manifest = {"generator": GENERATOR_VERSION, **asdict(settings), "files": files}
    with (folder / "manifest.json").open("w") as file:
        json.dump(manifest, file)
        file.flush()
        os.fsync(file.fileno())


def _write_split(
    folder: Path,
    split: Split,
    num_images: int,
    samples: np.ndarray,
    classes: np.ndarray,
    members: np.ndarray,
    settings: _Settings,
) -> None:
    """Draw one part of the data set: its images and its annotation file."""
    (folder / split).mkdir()
    random = np.random.RandomState([settings.seed, 1 if split == "train" else 2])
    deck = _deal(members, random)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, num_images + 1):
        canvas, owner, used = draw_picture(samples, deck, random, settings.image_size)
        file_name = f"{image_id:06d}.jpg"
        Image.fromarray(canvas).save(
            folder / split / file_name, quality=JPEG_QUALITY, subsampling=0
        )
        side = settings.image_size
        images.append({"id": image_id, "file_name": file_name, "width": side, "height": side})
        for number, sample in enumerate(used, start=1):
            annotation = _annotation(owner == number)
            annotation["id"] = len(annotations) + 1
            annotation["image_id"] = image_id
            annotation["category_id"] = int(classes[sample]) + 1
            annotation["sample"] = int(sample)
            annotations.append(annotation)
    document = {
        "info": {"description": "handwritten digits of scikit-learn, placed on backgrounds"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": CLASS_NAMES[c]} for i, c in CATEGORY_IDS.items()],
    }
    path = folder / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))


def _deal(members: np.ndarray, random: np.random.RandomState) -> Iterator[int]:
    """Yield every sample once in random order, then again in another one, for ever."""
    while True:
        yield from random.permutation(members)


def _annotation(visible: np.ndarray) -> dict[str, Any]:
    """Box, area and run lengths of the visible pixels, ``(S, S)`` bool."""
    rle = coco_mask.encode(np.asfortranarray(visible.astype(np.uint8)))
    left, top, right, bottom = box_of(visible)
    return {
        "bbox": [left, top, right - left, bottom - top],
        "area": int(visible.sum()),
        "iscrowd": 0,
        "segmentation": {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode()},
    }
