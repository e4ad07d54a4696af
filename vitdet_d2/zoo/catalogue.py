# SPDX-License-Identifier: Apache-2.0
"""The released ViTDet checkpoints, as data.

Every number is published, none is measured here: times are seconds per image (training: per
iteration with one image on each GPU) and memory is GB on each of 64 A100, AP is in percent.

Source: the table of Detectron2's `projects/ViTDet/README.md` at 02b5c4e; ViTDet, arXiv 2203.16527.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal, cast

from vitdet_d2.errors import RecipeError
from vitdet_d2.zoo.addresses import DETECTRON2_ADDRESS
from vitdet_d2.zoo.recipe_names import own_name, recipe_names

Dataset = Literal["coco", "lvis"]
Head = Literal["mask_rcnn", "cascade_mask_rcnn"]
Backbone = Literal["vitdet", "swin", "mvitv2"]
Size = Literal["b", "l", "h"]

BASE_ADDRESS = DETECTRON2_ADDRESS + "ViTDet/"
NUM_CLASSES: dict[Dataset, int] = {"coco": 80, "lvis": 1203}


@dataclass(frozen=True, kw_only=True)
class Released:
    """One released checkpoint.

    Attributes:
        name: ours, which is also the name of the recipe it was trained with.
        folder: Detectron2's name, for example ``COCO/mask_rcnn_vitdet_b``.
        dataset: what it was trained on; LVIS is version 1.
        head: of the detector.
        backbone: family of the backbone.
        size: of the backbone.
        pretraining: of the backbone: data and method.
        epochs: length of the training.
        train_seconds: per iteration.
        infer_seconds: per image.
        memory_gb: in training.
        activation_checkpointing: the memory is with it.
        box_ap: on the data set's validation images.
        mask_ap: likewise.
        model_id: number of the training run.
        hash_prefix: the six digits in the file's name.
    """

    name: str
    folder: str
    dataset: Dataset
    head: Head
    backbone: Backbone
    size: Size
    pretraining: str
    epochs: int
    train_seconds: float
    infer_seconds: float
    memory_gb: float
    activation_checkpointing: bool
    box_ap: float
    mask_ap: float
    model_id: str
    hash_prefix: str

    @property
    def num_classes(self) -> int:
        """Categories that it tells apart."""
        return NUM_CLASSES[self.dataset]

    @property
    def aliases(self) -> tuple[str, str]:
        """Detectron2's names, without and with the length of the training."""
        return self.folder, f"{self.folder}_{self.epochs}ep"

    @property
    def path(self) -> str:
        """Where the file lies below ``BASE_ADDRESS``."""
        run = f"f{self.model_id}" if self.dataset == "coco" else self.model_id
        return f"{self.folder}/{run}/model_final_{self.hash_prefix}.pkl"

    @property
    def address(self) -> str:
        """Where it was released."""
        return BASE_ADDRESS + self.path


def _row(
    folder: str,
    *,
    epochs: int,
    seconds: tuple[float, float],
    memory: float,
    ap: tuple[float, float],
    model: str,
    checkpointing: bool = False,
) -> Released:
    """Complete a row by what its folder's name says.

    Args:
        folder: ``COCO|LVIS/[cascade_]mask_rcnn_BACKBONE_SIZE[_in21k]``.
        epochs: of training.
        seconds: in training, in inference.
        memory: GB.
        ap: of boxes, of masks.
        model: run and hash prefix, ``325346929/61ccd1``.
        checkpointing: activation checkpointing was on.
    """
    dataset: Dataset = "lvis" if folder.startswith("LVIS/") else "coco"
    head: Head = "cascade_mask_rcnn" if "cascade" in folder else "mask_rcnn"
    parts = folder.removesuffix("_in21k").split("_")
    model_id, hash_prefix = model.split("/")
    return Released(
        name=own_name(folder),
        folder=folder,
        dataset=dataset,
        head=head,
        backbone=cast(Backbone, parts[-2]),
        size=cast(Size, parts[-1]),
        pretraining="IN21K, sup" if folder.endswith("_in21k") else "IN1K, MAE",
        epochs=epochs,
        train_seconds=seconds[0],
        infer_seconds=seconds[1],
        memory_gb=memory,
        activation_checkpointing=checkpointing,
        box_ap=ap[0],
        mask_ap=ap[1],
        model_id=model_id,
        hash_prefix=hash_prefix,
    )


RELEASED: tuple[Released, ...] = (
    _row(
        "COCO/mask_rcnn_vitdet_b",
        epochs=100,
        seconds=(0.314, 0.079),
        memory=10.9,
        ap=(51.6, 45.9),
        model="325346929/61ccd1",
    ),
    _row(
        "COCO/mask_rcnn_vitdet_l",
        epochs=100,
        seconds=(0.603, 0.125),
        memory=20.9,
        ap=(55.5, 49.2),
        model="325599698/6146ed",
    ),
    _row(
        "COCO/mask_rcnn_vitdet_h",
        epochs=75,
        seconds=(1.098, 0.178),
        memory=31.5,
        ap=(56.7, 50.2),
        model="329145471/7224f1",
    ),
    _row(
        "COCO/cascade_mask_rcnn_swin_b_in21k",
        epochs=50,
        seconds=(0.389, 0.077),
        memory=8.7,
        ap=(53.9, 46.2),
        model="342979038/246a82",
    ),
    _row(
        "COCO/cascade_mask_rcnn_swin_l_in21k",
        epochs=50,
        seconds=(0.508, 0.097),
        memory=12.6,
        ap=(55.0, 47.2),
        model="342979186/7c897e",
    ),
    _row(
        "COCO/cascade_mask_rcnn_mvitv2_b_in21k",
        epochs=100,
        seconds=(0.475, 0.09),
        memory=8.9,
        ap=(55.6, 48.1),
        model="325820315/8c3da3",
    ),
    _row(
        "COCO/cascade_mask_rcnn_mvitv2_l_in21k",
        epochs=50,
        seconds=(0.844, 0.157),
        memory=19.7,
        ap=(55.7, 48.3),
        model="325607715/2141b0",
    ),
    _row(
        "COCO/cascade_mask_rcnn_mvitv2_h_in21k",
        epochs=36,
        seconds=(1.655, 0.285),
        memory=18.4,
        ap=(55.9, 48.3),
        model="326187358/2234d7",
        checkpointing=True,
    ),
    _row(
        "COCO/cascade_mask_rcnn_vitdet_b",
        epochs=100,
        seconds=(0.362, 0.089),
        memory=12.3,
        ap=(54.0, 46.7),
        model="325358525/435fa9",
    ),
    _row(
        "COCO/cascade_mask_rcnn_vitdet_l",
        epochs=100,
        seconds=(0.643, 0.142),
        memory=22.3,
        ap=(57.6, 50.0),
        model="328021305/1a9f28",
    ),
    _row(
        "COCO/cascade_mask_rcnn_vitdet_h",
        epochs=75,
        seconds=(1.137, 0.196),
        memory=32.9,
        ap=(58.7, 51.0),
        model="328730692/f05665",
    ),
    _row(
        "LVIS/mask_rcnn_vitdet_b",
        epochs=100,
        seconds=(0.317, 0.085),
        memory=14.4,
        ap=(40.2, 38.2),
        model="329225748/5251c5",
    ),
    _row(
        "LVIS/mask_rcnn_vitdet_l",
        epochs=100,
        seconds=(0.576, 0.137),
        memory=24.7,
        ap=(46.1, 43.6),
        model="329211570/021b3a",
    ),
    _row(
        "LVIS/mask_rcnn_vitdet_h",
        epochs=100,
        seconds=(1.059, 0.186),
        memory=35.3,
        ap=(49.1, 46.0),
        model="332434656/866730",
    ),
    _row(
        "LVIS/cascade_mask_rcnn_swin_b_in21k",
        epochs=50,
        seconds=(0.368, 0.09),
        memory=11.5,
        ap=(44.0, 39.6),
        model="329222304/a3a348",
    ),
    _row(
        "LVIS/cascade_mask_rcnn_swin_l_in21k",
        epochs=50,
        seconds=(0.486, 0.105),
        memory=13.8,
        ap=(46.0, 41.4),
        model="329222724/2b94db",
    ),
    _row(
        "LVIS/cascade_mask_rcnn_mvitv2_b_in21k",
        epochs=100,
        seconds=(0.475, 0.1),
        memory=11.8,
        ap=(46.3, 42.0),
        model="329477206/a00567",
    ),
    _row(
        "LVIS/cascade_mask_rcnn_mvitv2_l_in21k",
        epochs=50,
        seconds=(0.844, 0.172),
        memory=21.0,
        ap=(49.4, 44.2),
        model="329661552/7838a5",
    ),
    _row(
        "LVIS/cascade_mask_rcnn_mvitv2_h_in21k",
        epochs=50,
        seconds=(1.661, 0.29),
        memory=21.3,
        ap=(49.5, 44.1),
        model="330445165/ad4220",
        checkpointing=True,
    ),
    _row(
        "LVIS/cascade_mask_rcnn_vitdet_b",
        epochs=100,
        seconds=(0.356, 0.099),
        memory=15.2,
        ap=(43.0, 38.9),
        model="329226874/df306f",
    ),
    _row(
        "LVIS/cascade_mask_rcnn_vitdet_l",
        epochs=100,
        seconds=(0.629, 0.15),
        memory=24.9,
        ap=(49.2, 44.5),
        model="329042206/3e81c2",
    ),
    _row(
        "LVIS/cascade_mask_rcnn_vitdet_h",
        epochs=100,
        seconds=(1.1, 0.204),
        memory=35.5,
        ap=(51.5, 46.6),
        model="332552778/11bbb7",
    ),
)


def lookup(name: str) -> Released | None:
    """Return the checkpoint of this name, if there is one.

    Args:
        name: ours, or one of Detectron2's.
    """
    for entry in RELEASED:
        if name == entry.name or name in entry.aliases:
            return entry
    return None


def find(name: str) -> Released:
    """Return the checkpoint of this name.

    Args:
        name: ours, or one of Detectron2's.

    Raises:
        RecipeError: there is none; the message says which are near.
    """
    entry = lookup(name)
    if entry is not None:
        return entry
    if name in recipe_names():
        raise RecipeError(
            f"no checkpoint of the recipe {name!r} was released; `vitdet zoo list` shows those "
            "that were"
        )
    near = difflib.get_close_matches(own_name(name).lower(), [e.name for e in RELEASED], n=3)
    cure = f"did you mean {' or '.join(near)}?" if near else "see `vitdet zoo list`"
    raise RecipeError(f"no checkpoint of the name {name!r} in the model zoo; {cure}")
