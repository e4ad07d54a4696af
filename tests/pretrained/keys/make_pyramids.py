# SPDX-License-Identifier: Apache-2.0
"""Write the key lists of pyramid transformers at full size: official classes, timm, transformers.

Run from the root of the repository with checkouts of whai362/PVT and NVlabs/SegFormer:
``python -m tests.pretrained.keys.make_pyramids PVT SEGFORMER``.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import timm
import transformers
from safetensors.torch import load_file
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from torch import Tensor

from tests.pretrained import golden, key_lists
from tests.pretrained.goldens import official
from tests.pretrained.goldens.make_pvt import import_file

WIDTHS, DEPTHS = (64, 128, 320, 512), (3, 4, 6, 3)


def write(name: str, state: Mapping[str, Tensor], made_with: str) -> None:
    """Write one list."""
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    key_lists.write(f"pyramids/{name}", shapes, made_with)


def write_official(pvt: Path, segformer: Path) -> None:
    """Write the lists of official classes."""
    at = f"whai362/PVT {golden.commit_of(pvt)}"
    for file, names in (
        ("pvt.py", ("pvt_tiny", "pvt_small", "pvt_large")),
        ("pvt_v2.py", ("pvt_v2_b0", "pvt_v2_b2", "pvt_v2_b2_li", "pvt_v2_b5")),
    ):
        module = import_file(pvt / "classification" / file)
        for name in names:
            made_with = f"{at}, classification/{file}, {name}()"
            write(f"{name}_cls", getattr(module, name)().state_dict(), made_with)
    for file, name in (("pvt.py", "pvt_small"), ("pvt_v2.py", "pvt_v2_b2")):
        backbone = getattr(import_file(pvt / "detection" / file), name)(pretrained=None)
        write(f"{name}_det", backbone.state_dict(), f"{at}, detection/{file}, {name}()")
    path = "mmseg/models/backbones/mix_transformer.py"
    module = import_file(segformer / path)
    for name in ("mit_b0", "mit_b2", "mit_b5"):
        made_with = f"NVlabs/SegFormer {golden.commit_of(segformer)}, {path}, {name}()"
        write(name, getattr(module, name)().state_dict(), made_with)


def write_libraries() -> None:
    """Write the lists of timm and transformers."""
    for name, linear in (("pvt_v2_b2", False), ("pvt_v2_b2_li", True)):
        model = PyramidVisionTransformerV2(embed_dims=WIDTHS, depths=DEPTHS, linear=linear)
        write(f"timm_{name}", model.state_dict(), f"timm {timm.__version__}, {name}")
    segformer = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig())
    for name, model in (
        ("hf_pvt", transformers.PvtForImageClassification(transformers.PvtConfig())),
        ("hf_pvt_v2", transformers.PvtV2ForImageClassification(transformers.PvtV2Config())),
        ("hf_segformer", segformer),
    ):
        made_with = f"transformers {transformers.__version__}, {type(model).__name__}, its defaults"
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            write(name, load_file(Path(folder) / "model.safetensors"), f"{made_with}, as saved")
    write("hf_segformer_memory", segformer.state_dict(), f"{made_with}, its state_dict()")


def main() -> None:
    """Write all of them."""
    official.prepare_timm()
    write_libraries()
    write_official(*(Path(argument).resolve() for argument in sys.argv[1:]))


if __name__ == "__main__":
    main()
