# SPDX-License-Identifier: Apache-2.0
"""Registration of data in COCO's or LVIS's format, by folder or JSON, in Detectron2's catalogues.

A file that needs repairs (``vitdet_d2.checks``) is left as it is; a repaired copy goes to the cache
folder, and that copy is what is registered. So every reader of the data set, Detectron2's own
included, sees the same valid file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..checks import CocoReport, Repair, check_coco_annotations
from ..checks.coco_file import load_document
from ..checks.lvis_entries import is_lvis, lvis_file_name
from ..errors import DataError
from .cache import cache_folder

logger = logging.getLogger(__name__)

Split = Literal["train", "val"]
ROBOFLOW_JSON = "_annotations.coco.json"
SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
}


@dataclass(frozen=True, kw_only=True)
class CocoFiles:
    """An annotation file and the folder its images are in."""

    json_file: Path
    image_root: Path


@dataclass(frozen=True, kw_only=True)
class CheckedData:
    """A data set that can be used: what is in it, and the annotation file to read."""

    # Without its document, which may be gigabytes.
    report: CocoReport
    # The file itself where it is valid, else the repaired copy.
    json_file: Path
    image_root: Path


@dataclass(frozen=True, kw_only=True)
class _Stamp:
    """Which content of which file was checked, against which images."""

    files: CocoFiles
    size: int
    modified: int
    repair: bool


# Checking COCO takes seconds, and training, evaluation and registration all ask for it.
_checked: dict[_Stamp, CheckedData] = {}
_registered: dict[str, tuple[CocoFiles, Path]] = {}


def find_coco_files(
    json_file: str | os.PathLike[str] | None,
    images: str | os.PathLike[str] | None,
    split: Split,
) -> CocoFiles:
    """Find the annotation file and the images from what a user named.

    Args:
        json_file: an annotation file, or a folder that has one; None to look in ``images``.
        images: the image folder; None to look for it around the annotation file.
        split: which part to take where a folder holds several.

    Returns:
        Both paths; the annotation file exists.

    Raises:
        DataError: nothing was named, or nothing or more than one file was found.
    """
    start = json_file if json_file is not None else images
    if start is None:
        raise DataError(
            f"no {split} data named; set data.{split}_json to an annotation file or its folder"
        )
    path = Path(start).expanduser()
    found = _find_json(path, split) if path.is_dir() else path
    if not found.is_file():
        raise DataError(f"data.{split}_json: annotation file {path} not found; correct the path")
    if json_file is not None and images is not None:
        root = Path(images).expanduser()
    else:
        root = _find_images(found)
    return CocoFiles(json_file=found, image_root=root)


def _find_json(folder: Path, split: Split) -> Path:
    """The annotation file of a data set folder, by the layouts of Roboflow and COCO.

    Raises:
        DataError: there is none, or more than one that fits.
    """
    places = [folder, *(folder / name for name in SPLIT_FOLDERS[split])]
    for place in places:
        if (place / ROBOFLOW_JSON).is_file():
            return place / ROBOFLOW_JSON
    # From most to least specific; images/train beside annotations/ comes last.
    patterns = [f"annotations/instances_{name}*.json" for name in SPLIT_FOLDERS[split]]
    patterns += [f"annotations/*{split}*.json", "annotations/*.json"]
    patterns += [f"lvis*_{split}.json", "*.json"]
    searched = [(folder, pattern) for pattern in patterns]
    for parent in (folder.parent, folder.parent.parent):
        searched.append((parent, f"annotations/instances_{folder.name}.json"))
    for place, pattern in searched:
        found = sorted(place.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(str(path.relative_to(place)) for path in found[:10])
            raise DataError(
                f"{place} holds more than one annotation file for {split}: {names}; "
                f"name one with data.{split}_json"
            )
    raise DataError(
        f"no annotation file in {folder}: expected {ROBOFLOW_JSON} or "
        f"annotations/instances_{split}*.json; name it with data.{split}_json"
    )


def _find_images(json_file: Path) -> Path:
    """The folder that has the file's first image, looked for where exports put it.

    Raises:
        DataError: it is nowhere there.
    """
    if json_file.name == ROBOFLOW_JSON:
        return json_file.parent
    _, content = load_document(json_file)
    image = content["images"][0] if content["images"] else {}
    first = lvis_file_name(image) if is_lvis(content) else image.get("file_name")
    if not isinstance(first, str):
        raise DataError(f"{json_file} names no images; is it a COCO annotation file?")
    above = json_file.parent.parent
    part = json_file.stem.removeprefix("instances_")
    places = [json_file.parent, json_file.parent / "images", above / part, above / "images" / part]
    places += [above / "images", above / "coco", above]
    for place in places:
        if (place / first).is_file():
            return place
    listed = ", ".join(str(place) for place in places)
    raise DataError(
        f"the images of {json_file} are not where they are looked for ({first} is in none of "
        f"{listed}); name their folder with data.train_images or data.val_images"
    )


def register_coco_folder(
    name: str, folder: str | os.PathLike[str], split: Split = "train"
) -> CheckedData:
    """Register the data set in a folder, as Roboflow and COCO lay them out.

    Args:
        name: for the catalogues.
        folder: holds ``_annotations.coco.json``, or ``annotations/instances_*.json``, or a folder
            of the split with the former.
        split: which part to take where there are several.

    Returns:
        What is in it.

    Raises:
        DataError: nothing usable is found there, or the name stands for other files.
    """
    files = find_coco_files(folder, None, split)
    return register_coco_json(name, files.json_file, files.image_root)


def register_coco_json(
    name: str, json_file: str | os.PathLike[str], image_root: str | os.PathLike[str]
) -> CheckedData:
    """Check an annotation file and its images, and register them; doing it again changes nothing.

    Args:
        name: for the catalogues.
        json_file: annotations in COCO's or LVIS's format.
        image_root: folder that the file names are relative to.

    Returns:
        What is in it.

    Raises:
        DataError: the data cannot be used, or the name stands for other files.
    """
    from detectron2.data import DatasetCatalog

    files = CocoFiles(
        json_file=Path(json_file).expanduser(), image_root=Path(image_root).expanduser()
    )
    known = _registered.get(name)
    if name in DatasetCatalog.list() and (known is None or known[0] != files):
        raise DataError(
            f"data set {name!r} is already registered with other files; choose another name"
        )
    checked = check_files(files, repair=True)
    _register_checked(name, checked)
    _registered[name] = (files, checked.json_file)
    return checked


def _register_checked(name: str, checked: CheckedData) -> None:
    """Register checked files in place of what the name stood for."""
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import register_coco_instances

    from .lvis import lvis_metadata, register_lvis_instances

    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    report, paths = checked.report, (str(checked.json_file), str(checked.image_root))
    if report.lvis is not None:
        register_lvis_instances(name, lvis_metadata(report), *paths)
        return
    facts = {
        "thing_classes": list(report.category_names),
        "thing_dataset_id_to_contiguous_id": report.class_index,
    }
    register_coco_instances(name, facts, *paths)


def check_files(files: CocoFiles, *, repair: bool) -> CheckedData:
    """Check a data set, once per process and content.

    Args:
        files: where it lies.
        repair: write a repaired copy to the cache folder where one is needed.

    Returns:
        What is in it.

    Raises:
        DataError: it cannot be used.
    """
    stamp = _stamp(files, repair=repair)
    known = _checked.get(stamp)
    # The cache folder may be emptied at any time.
    if known is None or not known.json_file.is_file():
        known = _checked[stamp] = _check(files, repair)
        # What was just checked is also what its catalogue entry will be asked for.
        copy = CocoFiles(json_file=known.json_file, image_root=known.image_root)
        _checked[_stamp(copy, repair=False)] = known
    return known


def _stamp(files: CocoFiles, *, repair: bool) -> _Stamp:
    """Identify the present content.

    Raises:
        DataError: there is no such file.
    """
    try:
        status = files.json_file.stat()
    except OSError as error:
        raise DataError(f"annotation file {files.json_file} not found; correct the path") from error
    return _Stamp(files=files, size=status.st_size, modified=status.st_mtime_ns, repair=repair)


def _check(files: CocoFiles, repair: bool) -> CheckedData:
    report = check_coco_annotations(files.json_file, files.image_root)
    if repair:
        report = _without_unused_root(report)
    for note in report.repairs:
        logger.warning("%s: %s", files.json_file, note)
    target = _write_copy(files.json_file, report) if repair and report.repairs else files.json_file
    return CheckedData(
        report=replace(report, document={}), json_file=target, image_root=files.image_root
    )


def _without_unused_root(report: CocoReport) -> CocoReport:
    """Leave out the category that Roboflow exports add: the parent of all, with no instance."""
    if report.lvis is not None:
        return report
    categories = report.document["categories"]
    parents = {category.get("supercategory") for category in categories}
    used = {annotation["category_id"] for annotation in report.document["annotations"]}
    roots = {
        category["id"]
        for category in categories
        if category.get("supercategory") == "none"
        and category["name"] in parents
        and category["id"] not in used
    }
    if not roots or len(roots) == len(categories):
        return report
    note = Repair(
        what="categories that only group the others (dropped)",
        count=len(roots),
        examples=tuple(sorted(roots)),
    )
    keep = [index for index, number in enumerate(report.category_ids) if number not in roots]
    rest = [category for category in categories if category["id"] not in roots]
    return replace(
        report,
        document={**report.document, "categories": rest},
        repairs=(*report.repairs, note),
        category_ids=tuple(report.category_ids[index] for index in keep),
        category_names=tuple(report.category_names[index] for index in keep),
        instances_per_class=tuple(report.instances_per_class[index] for index in keep),
    )


def _write_copy(json_file: Path, report: CocoReport) -> Path:
    """Write the repaired content to the cache, named by a hash, so that no edit is missed.

    Raises:
        DataError: it cannot be written.
    """
    content = json.dumps(report.document).encode()
    digest = hashlib.sha256(content).hexdigest()[:12]
    target = cache_folder("annotations") / f"{json_file.stem}-{digest}.json"
    if target.is_file() and target.stat().st_size == len(content):
        return target
    temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(
            f"cannot write the repaired annotations to {target} ({error.strerror}); "
            "free some space or name another folder with VITDET_D2_CACHE"
        ) from error
    logger.info("%s was repaired; the copy %s is used", json_file, target)
    return target
