# SPDX-License-Identifier: Apache-2.0
"""Measure the goldens of PVT v1, PVT v2 and MiT on their official classes, in float64.

    python -m tests.backbones.make_golden_pyramid PVT_CHECKOUT SEGFORMER_CHECKOUT

Written with whai362/PVT 57e2dfa, NVlabs/SegFormer 65fa8cf, torch 2.15, CPU. Stored are four fixed
projections of every map, and in one case also of every gradient. Sizes at which the
official PVT v1 is wrong have no golden; tests/backbones/test_pvt.py has loops for them.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import timm.layers
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.backbones.pyramid_case import CASES, FAMILY, TINY, WITH_GRADIENTS, images
from tests.backbones.vit_case import fingerprint, run
from tests.closed_form import fill_

GOLDEN = Path(__file__).with_name("golden_pyramid.safetensors")


class Named(nn.Module):
    """An official backbone, with its list of maps named."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return dict(zip(("res2", "res3", "res4", "res5"), self.net(x), strict=True))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.net.state_dict(*args, **kwargs)


def import_file(path: Path) -> ModuleType:
    """Import one file of an official checkout, without the packages that it registers itself in."""
    registry = SimpleNamespace(register_module=lambda: lambda kind: kind)
    sys.modules["timm.models.layers"] = timm.layers
    for package in ("mmdet", "mmseg", "mmcv"):
        for name in ("", ".models", ".models.builder", ".utils", ".runner"):
            module = ModuleType(package + name)
            module.__dict__.update(BACKBONES=registry, get_root_logger=None, load_checkpoint=None)
            sys.modules[package + name] = module
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Write the file."""
    pvt, segformer = (Path(argument) for argument in sys.argv[1:])
    v1 = import_file(pvt / "detection" / "pvt.py").PyramidVisionTransformer
    v2 = import_file(pvt / "detection" / "pvt_v2.py").PyramidVisionTransformerV2
    mit = segformer / "mmseg" / "models" / "backbones" / "mix_transformer.py"
    makers = {
        "pvt": partial(v1, img_size=64, patch_size=4),
        "pvt_v2": v2,
        "pvt_v2_li": partial(v2, linear=True),
        "mit": import_file(mit).MixVisionTransformer,
    }
    stored = {}
    for name, hw in CASES:
        ratios = FAMILY[name][1].get("mlp_ratios", TINY["mlp_ratios"])
        net = makers[name](
            **{**TINY, "mlp_ratios": ratios},
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )
        case = f"{name}/{hw[0]}x{hw[1]}"
        named = Named(net.double().eval())
        if hw == WITH_GRADIENTS:
            maps, gradients = run(named, images(*hw))
            for key, value in gradients.items():
                if value is not None:  # MiT has a classifier
                    stored[f"{case}/gradient/{key.removeprefix('net.')}"] = fingerprint(value)
        else:
            with torch.no_grad():
                maps = fill_(named)(images(*hw))
        for key, value in maps.items():
            stored[f"{case}/{key}"] = fingerprint(value)
    save_file({key: value.contiguous() for key, value in stored.items()}, GOLDEN)


if __name__ == "__main__":
    main()
