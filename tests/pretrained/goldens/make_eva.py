# SPDX-License-Identifier: Apache-2.0
"""Make the goldens of EVA and EVA-02 with their official classes.

    VITDET_D2_RUNTIME=installed python -m tests.pretrained.goldens.make_eva EVA

with Detectron2 in PYTHONPATH, on which the detectors build. EVA is a checkout of
https://github.com/baaivision/EVA. einops and xformers must be installed (of xformers its plain
`SwiGLU` runs, not its attention); apex and fairscale, which change no number here, are stood in
for.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from detectron2.modeling.backbone import backbone as detectron2_backbone
from torch import Tensor, nn

from tests.pretrained.golden import commit_of, fill, fill_model, image, save_golden

PATCH = 4
GRID = 4
NORM = partial(nn.LayerNorm, eps=1e-6)
SAID = "LayerNorm eps 1e-6"


def stand_in(name: str, **members: object) -> None:
    """Put a module in place of one that is not installed."""
    parent, _, _ = name.rpartition(".")
    if parent and parent not in sys.modules:
        stand_in(parent)
    module = ModuleType(name)
    module.__path__ = []  # type: ignore[attr-defined]
    vars(module).update(members)
    sys.modules[name] = module


def official(folder: Path) -> tuple[ModuleType, ModuleType]:
    """Import ``modeling_finetune`` and ``modeling_pretrain`` of a folder."""
    names = ("modeling_finetune", "modeling_pretrain")
    for name in names:
        sys.modules.pop(name, None)
    sys.path.insert(0, str(folder))
    finetune, pretrain = (importlib.import_module(name) for name in names)
    sys.path.pop(0)
    return finetune, pretrain


def official_detector(folder: Path, package: str) -> ModuleType:
    """Import the ViT of a detector, as a module beside Detectron2's own.

    Args:
        folder: ``.../det/detectron2/modeling/backbone``.
        package: name under which it is imported.
    """
    stand_in(package)
    sys.modules[package].__path__ = [str(folder)]
    sys.modules[f"{package}.backbone"] = detectron2_backbone
    return importlib.import_module(f"{package}.vit")


@torch.no_grad()
def features(model: nn.Module, picture: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens after the last block: of the patches alone, and with the class token.

    The blocks expect a class token: for the patches alone no token attends to it.
    """
    model.eval()
    both = torch.cat([model.cls_token, model.patch_embed(picture)], dim=1) + model.pos_embed
    seen = torch.ones(both.shape[:2], dtype=torch.bool)
    seen[:, 0] = False
    alone = x = both
    for block in model.blocks:
        x = block(x)
        alone = block(alone, attn_mask=seen)
    return alone[:, 1:], x


def rotary_filled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict whose rotary tables need not be stored: they are dropped."""
    return {k: fill(k, v.shape) if ".freqs_" in k else v for k, v in state.items()}


class Maker:
    """Fills a model, runs it, and saves the golden."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self.made_with = {
            "repository": "https://github.com/baaivision/EVA",
            "commit": commit_of(checkout),
        }

    def save(self, name: str, how: str, model: nn.Module, side: int) -> None:
        state = fill_model(model)
        alone, both = features(model, image(side, side))
        save_golden(
            name,
            made_with=self.made_with,
            how=f"{how}, {SAID}",
            state=rotary_filled(state),
            image_size=(side, side),
            features=alone,
            with_prefix=both,
        )

    def save_detector(self, name: str, how: str, model: nn.Module, side: int) -> None:
        state = fill_model(model)
        with torch.no_grad():
            (map_,) = model.eval()(image(side, side)).values()
        save_golden(
            name,
            made_with=self.made_with,
            how=f"{how}, {SAID}",
            state=rotary_filled(state),
            image_size=(side, side),
            features=map_[0].flatten(1).T,
        )


def make_eva01(make: Maker) -> None:
    finetune, pretrain = official(make.checkout / "EVA-01" / "eva")
    norm = partial(finetune.LayerNormWithForceFP32, eps=1e-6)
    size = {"embed_dim": 24, "depth": 2, "num_heads": 2, "norm_layer": norm, "qkv_bias": True}
    side = GRID * PATCH
    make.save(
        "eva01_pretrained",
        "EVA-01 VisionTransformerForMaskedImageModeling(patch_size=4, embed_dim=24, depth=2, "
        "num_heads=2)",
        pretrain.VisionTransformerForMaskedImageModeling(
            **size, img_size=side, patch_size=PATCH, predict_feature_dim=8
        ),
        side,
    )
    backbone = make.checkout / "EVA-01" / "det" / "detectron2" / "modeling" / "backbone"
    vit = official_detector(backbone, "eva01_backbone")
    make.save_detector(
        "eva01_detector",
        "EVA-01 det ViT(img_size=24, pretrain_img_size=16, patch_size=4, embed_dim=24, depth=2, "
        "num_heads=2, use_rel_pos, beit_like_qkv_bias, window 4 in block 0)",
        vit.ViT(
            **{**size, "qkv_bias": False},
            img_size=24,
            pretrain_img_size=side,
            patch_size=PATCH,
            use_rel_pos=True,
            beit_like_qkv_bias=True,
            window_size=4,
            window_block_indexes=(0,),
        ),
        24,
    )


def make_eva02(make: Maker) -> None:
    finetune, pretrain = official(make.checkout / "EVA-02" / "asuka")
    size = {
        "depth": 2,
        "mlp_ratio": 4 * 2 / 3,
        "norm_layer": NORM,
        "qkv_bias": True,
        "rope": True,
    }
    base = {"subln": True, "naiveswiglu": True}
    tuned = {
        "num_classes": 5,
        "use_checkpoint": False,
        "pt_hw_seq_len": 16,
        "intp_freq": True,
        "embed_dim": 24,
        "num_heads": 2,
    }
    for name, patch, kind in (
        ("eva02_finetuned", 14, base),
        ("eva02_finetuned_p14to16", 16, base),
        ("eva02_finetuned_small", 14, {"swiglu": True}),
    ):
        said = ", ".join(kind)
        make.save(
            name,
            f"EVA-02 VisionTransformer(patch_size={patch}, embed_dim=24, depth=2, num_heads=2, "
            f"{said}, rope, pt_hw_seq_len=16, intp_freq)",
            finetune.VisionTransformer(
                **size, **kind, **tuned, img_size=GRID * patch, patch_size=patch
            ),
            GRID * patch,
        )
    # In pre-training rotary positions count tokens: 16 a side, as in every other grid.
    make.save(
        "eva02_pretrained",
        "EVA-02 VisionTransformerForMaskedImageModeling(img_size=32, patch_size=2, embed_dim=8, "
        "depth=2, num_heads=1, subln, naiveswiglu, rope)",
        pretrain.VisionTransformerForMaskedImageModeling(
            **size,
            **base,
            img_size=32,
            patch_size=2,
            embed_dim=8,
            num_heads=1,
            predict_feature_dim=8,
        ),
        32,
    )
    backbone = make.checkout / "EVA-02" / "det" / "detectron2" / "modeling" / "backbone"
    vit = official_detector(backbone, "eva02_backbone")
    make.save_detector(
        "eva02_detector",
        "EVA-02 det ViT(img_size=24, pretrain_img_size=16, patch_size=4, embed_dim=24, depth=2, "
        "num_heads=2, rope, pt_hw_seq_len=16, intp_freq, window 4 in block 0)",
        vit.ViT(
            **size,
            img_size=24,
            pretrain_img_size=GRID * PATCH,
            patch_size=PATCH,
            embed_dim=24,
            num_heads=2,
            window_size=4,
            window_block_indexes=(0,),
            xattn=False,
        ),
        24,
    )


def main() -> None:
    """Make all goldens."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkout", type=Path)
    make = Maker(parser.parse_args().checkout)
    stand_in("apex.normalization", FusedLayerNorm=nn.LayerNorm)
    stand_in("fairscale.nn.checkpoint", checkpoint_wrapper=lambda block: block)
    make_eva01(make)
    make_eva02(make)


if __name__ == "__main__":
    main()
