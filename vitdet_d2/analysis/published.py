# SPDX-License-Identifier: Apache-2.0
"""Published accuracy, to stand beside what is measured: never measured here, and marked so.

Source: of the released ViTDet models the catalogue of the zoo; of the benchmark of pre-trained ViTs
"Benchmarking Detection Transfer Learning with Vision Transformers", arXiv 2111.11429, section 4.1,
and MAE, arXiv 2111.06377, table 4, which repeats it. The mask AP of random initialisation is in
neither text that could be read, and left out. Of PVT: `published_pvt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vitdet_d2.analysis.published_pvt import FROM_SCRATCH, PRETRAINING, PVT_AP, SCHEDULE
from vitdet_d2.errors import RecipeError
from vitdet_d2.zoo.catalogue import find

_BENCHMARK = "benchmark_vit_"
# Initialisation: size -> box AP and mask AP of the best schedule, ImageNet-1K, COCO val2017.
_BEST: Mapping[str, Mapping[str, tuple[float, float | None]]] = {
    "random": {"b": (48.9, None), "l": (50.7, None)},
    "supervised": {"b": (47.9, 42.9), "l": (49.3, 43.9)},
    "mocov3": {"b": (47.9, 42.7), "l": (49.3, 44.0)},
    "beit": {"b": (49.8, 44.4), "l": (53.3, 47.1)},
    "mae": {"b": (50.3, 44.9), "l": (53.3, 47.2)},
}


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A row of somebody else's table.

    Attributes:
        name: of the recipe that has its settings.
        initialisation: what the backbone was pre-trained with.
        schedule: length of the training.
        values: in percent, by the names of metrics.
        source: where it stands.
    """

    name: str
    initialisation: str
    schedule: str
    values: Mapping[str, float]
    source: str


def published_rows(name: str) -> tuple[PublishedRow, ...]:
    """Return what is published of a model, or of the five models of a benchmark's size.

    Args:
        name: of the zoo; of a benchmark's recipe, such as ``benchmark_vit_b_mae``, or of all of a
            size, ``benchmark_vit_b`` or ``benchmark_vit_l``; or of a recipe of PVT.

    Raises:
        RecipeError: nothing is published of this name.
    """
    size, _, initialisation = name.removeprefix(_BENCHMARK).partition("_")
    if name.startswith(_BENCHMARK) and size in ("b", "l"):
        chosen = [initialisation] if initialisation else list(_BEST)
        if all(key in _BEST for key in chosen):
            return tuple(_benchmark_row(size, key) for key in chosen)
    if name.startswith(_BENCHMARK):
        raise RecipeError(
            f"nothing is published of {name!r}; of the benchmark there are {_BENCHMARK}b and "
            f"{_BENCHMARK}l, each alone or with _{', _'.join(_BEST)}"
        )
    if name in PVT_AP:
        return (_pvt_row(name),)
    row = find(name)
    return (
        PublishedRow(
            name=row.name,
            initialisation=row.pretraining,
            schedule=f"{row.epochs} ep",
            values={"bbox/AP": row.box_ap, "segm/AP": row.mask_ap},
            source="Detectron2's table of ViTDet models",
        ),
    )


def _pvt_row(name: str) -> PublishedRow:
    box_ap, mask_ap = PVT_AP[name]
    return PublishedRow(
        name=name,
        initialisation="random" if name in FROM_SCRATCH else PRETRAINING,
        schedule=SCHEDULE,
        values=_values(box_ap, mask_ap),
        source="PVT's table of detectors, 800 px; ablations: arXiv 2102.12122",
    )


def _values(box_ap: float, mask_ap: float | None) -> dict[str, float]:
    return {"bbox/AP": box_ap} | ({} if mask_ap is None else {"segm/AP": mask_ap})


def _benchmark_row(size: str, initialisation: str) -> PublishedRow:
    box_ap, mask_ap = _BEST[initialisation][size]
    return PublishedRow(
        name=f"{_BENCHMARK}{size}_{initialisation}",
        initialisation=initialisation,
        schedule="its best",
        values=_values(box_ap, mask_ap),
        source="arXiv 2111.11429, section 4.1, and 2111.06377, table 4",
    )
