# SPDX-License-Identifier: Apache-2.0
"""Goldens of PVT, PVT v2 and MiT: ``python -m tests.pretrained.goldens.make_pvt PVT SEGFORMER``.

The arguments are checkouts of whai362/PVT and NVlabs/SegFormer.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn

from tests.pretrained import golden
from tests.pretrained.goldens import official
from tests.pretrained.pyramid_golden import IMAGE, OURS, SIZE, save_pyramid

NORM = partial(nn.LayerNorm, eps=1e-6)


def import_file(path: Path) -> ModuleType:
    """Import one official file, without the toolboxes in which it registers its classes."""
    registry = SimpleNamespace(register_module=lambda: lambda cls: cls)
    for package in ("mmdet", "mmseg", "mmcv"):
        for part in ("", ".models", ".models.builder", ".utils", ".runner"):
            module = ModuleType(package + part)
            module.__dict__.update(BACKBONES=registry, get_root_logger=None, load_checkpoint=None)
            sys.modules[package + part] = module
    name = "_".join(path.parts[-2:]).removesuffix(".py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Write all of them."""
    pvt, segformer = (Path(argument).resolve() for argument in sys.argv[1:])
    official.prepare_timm()
    from_pvt = {"repository": "whai362/PVT", "commit": golden.commit_of(pvt)}
    from_mit = {"repository": "NVlabs/SegFormer", "commit": golden.commit_of(segformer)}
    first, second = "PyramidVisionTransformer", "PyramidVisionTransformerV2"
    mit = import_file(segformer / "mmseg" / "models" / "backbones" / "mix_transformer.py")
    rows: list[tuple[str, Any, Any, dict[str, str], dict[str, Any]]] = []
    for name, cls, file, extra in (
        ("pvt", first, "pvt.py", {"img_size": IMAGE[0], "patch_size": 4}),
        ("pvt_v2", second, "pvt_v2.py", {"img_size": IMAGE[0]}),
        ("pvt_v2_linear", second, "pvt_v2.py", {"img_size": IMAGE[0], "linear": True}),
    ):
        classifier, detector = (
            getattr(import_file(pvt / task / file), cls) for task in ("classification", "detection")
        )
        rows.append((name, classifier, detector, from_pvt, extra))
    rows.append(("mit", mit.MixVisionTransformer, mit.MixVisionTransformer, from_mit, {}))
    for name, classifier, detector, made_with, extra in rows:
        ratios = OURS[name][1]["mlp_ratios"]
        options = {**SIZE, "mlp_ratios": ratios, "qkv_bias": True, "norm_layer": NORM, **extra}
        head = {} if name == "mit" else {"num_classes": 5}
        state = golden.fill_model(classifier(**options, **head).eval())
        backbone = detector(**options).eval()
        backbone.load_state_dict(state, strict=False)
        with torch.no_grad():
            maps = backbone(golden.image(*IMAGE))
        shown = {key: value for key, value in options.items() if key != "norm_layer"}
        save_pyramid(
            name, made_with=made_with, state=state, maps=maps,
            how=f"{detector.__name__}({shown}), eps=1e-6, with the weights of the classifier",
        )  # fmt: skip


if __name__ == "__main__":
    main()
