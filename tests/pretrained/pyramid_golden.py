# SPDX-License-Identifier: Apache-2.0
"""Small pyramid transformers of official classes: keys of the classifier, maps of the detector.

As `golden`: ``goldens/pyramids/NAME.json`` holds no weights, `golden.fill` makes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.pretrained import golden
from vitdet_d2.backbones import PVT, MiT, PVTv2

FOLDER = golden.GOLDENS / "pyramids"
# Of every golden; widths and heads differ from stage to stage.
SIZE: dict[str, Any] = {
    "embed_dims": [8, 12, 16, 20],
    "depths": [1, 2, 2, 1],
    "num_heads": [1, 2, 2, 5],
    "sr_ratios": [8, 4, 2, 1],
}
RATIOS = [3, 2, 2, 1]
IMAGE = (64, 64)
# By golden: our class, with what it needs beside `SIZE`.
OURS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "pvt": (PVT, {"mlp_ratios": RATIOS, "pretrain_img_size": IMAGE[0]}),
    "pvt_v2": (PVTv2, {"mlp_ratios": RATIOS}),
    "pvt_v2_linear": (PVTv2, {"mlp_ratios": RATIOS, "linear": True}),
    "mit": (MiT, {"mlp_ratios": [4, 4, 4, 4]}),
}


def build(name: str, **options: Any) -> nn.Module:
    """Build our backbone for a golden, with new weights."""
    kind, arguments = OURS[name]
    return kind(**{**SIZE, **arguments, **options}).eval()


@dataclass(frozen=True, kw_only=True)
class PyramidGolden:
    """What official classes have and compute with filled weights.

    Attributes:
        name: of the golden.
        made_with: repository, commit, versions.
        keys: name in the state dict of the official classifier -> shape.
        maps: of the official backbone for detection, ``(C, h, w)`` each.
    """

    name: str
    made_with: dict[str, str]
    keys: dict[str, tuple[int, ...]]
    maps: list[Tensor]

    def state(self) -> dict[str, Tensor]:
        """Return the state dict of the official classifier."""
        return {name: golden.fill(name, shape) for name, shape in self.keys.items()}

    def assert_maps(self, backbone: nn.Module) -> None:
        """Compare the maps of one of ours with the official ones."""
        with torch.no_grad():
            maps = backbone.eval()(golden.image(*IMAGE))
        for found, wanted in zip(maps.values(), self.maps, strict=True):
            torch.testing.assert_close(found[0], wanted, atol=golden.TOLERANCE, rtol=0)


def load_pyramid(name: str) -> PyramidGolden:
    """Read ``goldens/pyramids/NAME.json``."""
    raw = json.loads((FOLDER / f"{name}.json").read_text())
    return PyramidGolden(
        name=name,
        made_with=raw["made_with"],
        keys={key: tuple(shape) for key, shape in raw["keys"].items()},
        maps=[torch.tensor(values) for values in raw["maps"]],
    )


def save_pyramid(
    name: str, *, made_with: Mapping[str, str], how: str, state: Mapping[str, Tensor],
    maps: Sequence[Tensor],
) -> None:  # fmt: skip
    """Write ``goldens/pyramids/NAME.json``.

    Args:
        name: of the golden.
        made_with: repository and commit of the official code; versions are added.
        how: the classes with their arguments.
        state: of the official classifier, filled.
        maps: of the official backbone, ``(1, C, h, w)`` each.
    """
    content = {
        "made_with": {**made_with, "torch": torch.__version__, "numpy": np.__version__},
        "how": how,
        "keys": {key: list(value.shape) for key, value in state.items()},
        "maps": [torch.round(value[0].double(), decimals=6).tolist() for value in maps],
    }
    lines = [
        f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}"
        for key, value in content.items()
    ]
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
