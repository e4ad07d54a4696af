# SPDX-License-Identifier: Apache-2.0
"""The embedded quick-start data set: real handwritten digits on varied backgrounds, with masks.

The 1,797 scanned digits (8x8 grey values) that scikit-learn ships are enlarged, inked and placed on
drawn backgrounds, and written as a COCO-format data set::

    ROOT/VERSION/annotations/instances_{train,val}.json
    ROOT/VERSION/{train,val}/000001.jpg ...
    ROOT/VERSION/manifest.json          what a whole data set must consist of

Masks are COCO run lengths, not polygons: a 0, 6, 8 or 9 has holes, which COCO polygons lack.
Recipes therefore set ``instance_mask_format="bitmask"``.

Vocabulary: a *sample* is one 8x8 scan; a *canvas* is an ``(S, S, 3)`` RGB uint8 image in the
making; *owner* is an ``(S, S)`` map that says which digit is visible at a pixel, 0 for the
background. Only integer and plain float32 arithmetic, numpy's frozen ``RandomState`` and
Pillow's fixed-point resizing take part, so that every machine draws the same pixels.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ..errors import DataError
from .digit_backgrounds import draw_background

# Part of the folder's name: raise it with every change of what is drawn or written.
GENERATOR_VERSION = 1
CLASS_NAMES = tuple("0123456789")
# COCO numbers categories from 1.
CATEGORY_IDS = {index + 1: index for index in range(len(CLASS_NAMES))}
NUM_TRAIN, NUM_VAL, IMAGE_SIZE = 4000, 200, 192

MAX_DIGITS = 8
# Of the image's side, for the longer side of a digit's box.
MIN_SIDE, MAX_SIDE = 1 / 8, 1 / 2
# A digit whose ink is hidden by more than this is no longer legible for sure.
MAX_HIDDEN = 0.05
# Of the smaller box, that two boxes may share: a 1 drawn inside a 4 is hard to read for anybody.
MAX_SHARED = 0.3
# Every fifth sample of each class is held out.
HELD_OUT = 0.2
# Grey levels between the ink and everything but outliers of the background below it.
MIN_CONTRAST = 70
# Of the sample's darkest value; thinner strokes of the scans are broken above, blobs below.
INK_THRESHOLD = 0.42
JPEG_QUALITY = 92
# Places tried for a digit before a smaller one is tried, and sizes tried before it is left out.
PLACES, SIZES = 12, 4
# Thousandths of red, green and blue in a grey level (ITU-R BT.601).
LUMA = (299, 587, 114)

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


def cache_root() -> Path:
    """Folder of the digits data sets: ``$VITDET_D2_CACHE/digits``, by default below the home."""
    cache = os.environ.get("VITDET_D2_CACHE") or "~/.cache/vitdet_d2"
    return Path(cache).expanduser() / "digits"


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
    paths = settings.paths(cache_root())
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
            thing_dataset_contiguous_id_mapping=dict(CATEGORY_IDS),
        )


@dataclass(frozen=True, kw_only=True)
class _Loader:
    """Catalogue entry: draws the data set if need be, and reads one part of it."""

    name: str

    def __call__(self) -> list[dict[str, Any]]:
        from detectron2.data.datasets import load_coco_json

        paths = build_digits(cache_root())
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
    images, annotations = [], []
    for image_id in range(1, num_images + 1):
        canvas, owner, used = _draw_image(samples, deck, random, settings.image_size)
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
    left, top, right, bottom = _box(visible)
    return {
        "bbox": [left, top, right - left, bottom - top],
        "area": int(visible.sum()),
        "iscrowd": 0,
        "segmentation": {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode()},
    }


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """``(x0, y0, x1, y1)`` in pixels around the true entries of a non-empty ``(H, W)`` mask."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _draw_image(
    samples: np.ndarray, deck: Iterator[int], random: np.random.RandomState, side: int
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Draw one image.

    Returns:
        The canvas, the owner map (digit ``k`` of the image, from 1), and the sample of each digit.
    """
    canvas = draw_background(random, side)
    owner = np.zeros((side, side), np.uint8)
    used: list[int] = []
    wanted = random.randint(1, MAX_DIGITS + 1)
    # Uniform in the logarithm: as many small digits as large ones. Large ones first, as small ones
    # still find room between them.
    ratios = MIN_SIDE * (MAX_SIDE / MIN_SIDE) ** random.random_sample(wanted)
    for ratio in np.sort(ratios)[::-1]:
        sample = next(deck)
        if _place(canvas, owner, len(used) + 1, samples[sample], float(ratio) * side, random):
            used.append(sample)
    assert used, "an empty image has room for a digit of half its side"
    return canvas, owner, used


def _place(
    canvas: np.ndarray,
    owner: np.ndarray,
    number: int,
    scan: np.ndarray,
    length: float,
    random: np.random.RandomState,
) -> bool:
    """Ink one digit where it hides little of the others; smaller where there is no room.

    Returns:
        Whether a place was found; canvas and owner are changed only then.
    """
    side = len(owner)
    boxes = np.array([_box(owner == other) for other in range(1, number)]).reshape(-1, 4)
    areas = np.bincount(owner.ravel(), minlength=number + 1)
    stretch = float(random.uniform(0.85, 1.15))
    for _ in range(SIZES):
        alpha = _ink_alpha(scan, length, MIN_SIDE * side, MAX_SIDE * side, stretch)
        mask = alpha >= 0.5
        height, width = mask.shape
        for _ in range(PLACES):
            top, left = random.randint(0, side - height + 1), random.randint(0, side - width + 1)
            window = np.s_[top : top + height, left : left + width]
            place = np.array([left, top, left + width, top + height])
            if _is_apart(place, boxes) and _is_free(owner, window, mask, areas):
                _ink(canvas[window], alpha, _ink_colour(canvas[window], mask, random))
                owner[window][mask] = number
                return True
        length *= 0.75
    return False


def _is_apart(place: np.ndarray, boxes: np.ndarray) -> bool:
    """Whether a box ``(4,)`` shares little with each of ``(K, 4)`` others, XYXY pixels."""
    overlap = np.minimum(place[2:], boxes[:, 2:]) - np.maximum(place[:2], boxes[:, :2])
    shared = np.maximum(overlap, 0).prod(1)
    sizes = np.minimum((place[2:] - place[:2]).prod(), (boxes[:, 2:] - boxes[:, :2]).prod(1))
    return not (shared > MAX_SHARED * sizes).any()


def _is_free(
    owner: np.ndarray, window: tuple[slice, slice], mask: np.ndarray, areas: np.ndarray
) -> bool:
    """Whether a digit placed here hides little of every other, and keeps each box large enough."""
    hidden = np.bincount(owner[window][mask], minlength=len(areas))
    hidden[0] = 0
    if (hidden > MAX_HIDDEN * areas).any():
        return False
    touched = np.flatnonzero(hidden)
    if not len(touched):
        return True
    after = owner.copy()
    after[window][mask] = 0
    shortest = MIN_SIDE * len(owner)
    for number in touched:
        left, top, right, bottom = _box(after == number)
        if max(right - left, bottom - top) < shortest:
            return False
    return True


def _ink_alpha(
    scan: np.ndarray, length: float, shortest: float, longest: float, stretch: float
) -> np.ndarray:
    """Enlarge a sample smoothly to soft-edged ink.

    Args:
        scan: ``(8, 8)`` uint8.
        length: wanted longer side of the ink's box in pixels.
        shortest: smallest longer side in pixels.
        longest: largest longer side in pixels.
        stretch: width over height, relative to the sample's.

    Returns:
        ``(h, w)`` float32 in [0, 1], trimmed to the ink's box; >= 0.5 is ink.
    """
    # One pixel of paper around it, so that strokes at the scan's border get a rounded end.
    paper = Image.fromarray(np.pad(scan, 1))
    cutoff = np.float32(INK_THRESHOLD * int(scan.max()))
    scale = length / len(scan)
    for _ in range(6):
        size = (max(10, round(10 * scale * stretch)), max(10, round(10 * scale)))
        grey = np.asarray(paper.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
        left, top, right, bottom = _box(grey >= cutoff)
        longer = max(right - left, bottom - top)
        if shortest <= longer <= longest and abs(longer - length) < 2:
            break
        # Half a pixel inside the bounds, as sizes are rounded.
        scale *= min(max(length, shortest + 0.5), longest - 0.5) / longer
    # An edge of the scan is one scan pixel wide; two pixels here, whatever the enlargement.
    alpha = np.clip((grey - cutoff) * np.float32(scale / 2 / 255) + np.float32(0.5), 0, 1)
    return alpha[top:bottom, left:right]


def _ink(canvas: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> None:
    """Blend ``colour`` ``(3,)`` into a view of the canvas in place."""
    weight = alpha[..., None]
    canvas[:] = (canvas * (1 - weight) + colour * weight + np.float32(0.5)).astype(np.uint8)


def _ink_colour(canvas: np.ndarray, mask: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Draw an ink that stands out from what lies below it.

    Returns:
        ``(3,)`` float32 RGB whose grey level is ``MIN_CONTRAST`` away from the 5 % to 95 % range of
        the background; backgrounds span so little that black or white always does.
    """
    grey = np.sort(_grey(canvas[mask]))
    low, high = int(grey[len(grey) // 20]), int(grey[len(grey) - 1 - len(grey) // 20])
    colours = random.randint(0, 256, (20, 3))
    levels = _grey(colours)
    contrasting = (levels <= low - MIN_CONTRAST) | (levels >= high + MIN_CONTRAST)
    if contrasting.any():
        return colours[contrasting.argmax()].astype(np.float32)
    return np.full(3, 10 if low > 255 - high else 245, np.float32)


def _grey(colours: np.ndarray) -> np.ndarray:
    """Grey levels ``(N,)`` of RGB colours ``(N, 3)``, both 0 to 255."""
    red, green, blue = colours.astype(np.int32).T
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue) // 1000
