# SPDX-License-Identifier: Apache-2.0
"""Checks of what LVIS adds to COCO's format: federated annotation, and how frequent classes are.

An image is annotated for some categories only: those of its annotations, and those that were looked
for and not found (``neg_category_ids``). Of the categories in ``not_exhaustive_category_ids``, not
every instance is annotated. A category's ``frequency`` says in how many training images it is: rare
(r: 1 to 10), common (c: 11 to 100), frequent (f: more); ``image_count`` gives the number.

Source: LVIS, arXiv 1908.03195, sections 2 and 3; the files of its version 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from .coco_values import as_integer, quote

FREQUENCIES = ("r", "c", "f")
FEDERATED_KEYS = ("neg_category_ids", "not_exhaustive_category_ids")


@dataclass(frozen=True, kw_only=True)
class LvisFacts:
    """What an LVIS file says about its categories, in the order of their ids."""

    frequencies: tuple[str, ...]
    # Images with the class: of the training set where the file says so, else of the file.
    image_counts: tuple[int, ...]


def is_lvis(document: Mapping[str, Any]) -> bool:
    """Whether a file is in LVIS's format, judged by what only LVIS has.

    Args:
        document: its top level; ``images`` and ``categories`` are lists of objects.
    """
    return any("frequency" in category for category in document["categories"]) or any(
        key in image for image in document["images"] for key in FEDERATED_KEYS
    )


def lvis_file_name(image: Mapping[str, Any]) -> Any:
    """Return an image's path below the image folder.

    LVIS's files name images by ``coco_url`` only, whose last two parts are COCO's folder and file:
    LVIS divides COCO's images otherwise than COCO does.

    Args:
        image: its entry.

    Returns:
        ``train2017/000000391895.jpg``; ``file_name`` as it is where there is no ``coco_url``.
    """
    url = image.get("coco_url")
    if isinstance(url, str) and url.count("/") > 1:
        return "/".join(url.rsplit("/", 2)[1:])
    return image.get("file_name")


def name_images(source: str, document: dict[str, Any]) -> None:
    """Give every image the ``file_name`` that its ``coco_url`` stands for.

    Args:
        source: the annotation file, for messages.
        document: its top level; ``images`` is replaced.

    Raises:
        DataError: an image has neither.
    """
    named = []
    for row, image in enumerate(document["images"]):
        name = lvis_file_name(image)
        if name is None:
            raise DataError(
                f"{source}: image {quote(image.get('id'))} (entry {row}): expected a 'coco_url' or "
                "a 'file_name', got neither; name its file"
            )
        named.append(image if image.get("file_name") == name else {**image, "file_name": name})
    document["images"] = named


def class_names(document: Mapping[str, Any], names: Mapping[int, str]) -> dict[int, str]:
    """Return the classes' names as Detectron2 has them: the first synonym.

    Args:
        document: the top level.
        names: category id -> ``name``, which stands where there are no synonyms.
    """
    first = {}
    for category in document["categories"]:
        synonyms = category.get("synonyms")
        if isinstance(synonyms, list) and synonyms and isinstance(synonyms[0], str):
            first[category["id"]] = synonyms[0]
    return {number: first.get(number) or name for number, name in names.items()}


def check_federated(source: str, document: Mapping[str, Any], category_ids: Sequence[int]) -> None:
    """Check the lists of categories that images were searched for.

    Args:
        source: the annotation file, for messages.
        document: its top level, with images that have been checked.
        category_ids: all that there are.

    Raises:
        DataError: one is no list, or names an unknown category.
    """
    known = set(category_ids)
    for image in document["images"]:
        for key in FEDERATED_KEYS:
            listed = image.get(key, [])
            where = f"{source}: image {image['id']}: {key!r}"
            if not isinstance(listed, list):
                raise DataError(
                    f"{where}: expected a list of category ids, got {quote(listed)}; correct it or "
                    "remove the key"
                )
            # The quick test first: a hundred thousand images list a million ids.
            if set(map(type, listed)) <= {int} and known.issuperset(listed):
                continue
            bad = next(i for i in listed if type(i) is not int or i not in known)
            raise DataError(
                f"{where}: {quote(bad)} is not the id of a category, of which there are "
                f"{len(known)}; correct it or add the category"
            )


def check_frequencies(
    source: str,
    document: Mapping[str, Any],
    category_ids: Sequence[int],
    annotated: tuple[np.ndarray, np.ndarray],
) -> LvisFacts:
    """Check how frequent the categories are said to be.

    Args:
        source: the annotation file, for messages.
        document: its top level, with categories that have been checked.
        category_ids: all that there are, in order.
        annotated: image (any number that tells images apart) and category id of every annotation,
            ``(N,)`` each; counted where the file has no counts.

    Raises:
        DataError: a frequency is missing or unknown, or a count is no number of images.
    """
    by_id = {category["id"]: category for category in document["categories"]}
    present = np.unique(np.stack(annotated, axis=1), axis=0)[:, 1]
    frequencies, counts = [], []
    for number in category_ids:
        category = by_id[number]
        where = f"{source}: category {number} ({quote(category['name'])})"
        if category.get("frequency") not in FREQUENCIES:
            raise DataError(
                f"{where}: expected a 'frequency' of {', '.join(map(repr, FREQUENCIES))}, got "
                f"{quote(category.get('frequency'))}; LVIS's format needs it in every category "
                "(for COCO's format remove it, and 'neg_category_ids', everywhere)"
            )
        count = category.get("image_count")
        count = int((present == number).sum()) if count is None else as_integer(count)
        if count is None or count < 0:
            raise DataError(
                f"{where}: expected a number of images as 'image_count', got "
                f"{quote(category['image_count'])}; correct or remove it"
            )
        frequencies.append(str(category["frequency"]))
        counts.append(count)
    return LvisFacts(frequencies=tuple(frequencies), image_counts=tuple(counts))
