# SPDX-License-Identifier: Apache-2.0
"""Goldens of CLIP: ``python -m tests.pretrained.goldens.make_clip CLIP OPEN_CLIP``.

The checkouts are of openai/CLIP and mlfoundations/open_clip.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from tests.pretrained import golden
from tests.pretrained.goldens import official

SIDE, PATCH, WIDTH = 48, 16, 32


def module_of(package: str, folder: Path, name: str) -> ModuleType:
    """Import one module of a package, without what the package itself imports."""
    parent = ModuleType(package)
    parent.__path__ = [str(folder)]
    sys.modules[package] = parent
    return importlib.import_module(f"{package}.{name}")


@torch.no_grad()
def features(visual: nn.Module, picture: Tensor, *, batch_first: bool) -> tuple[Tensor, Tensor]:
    """Return the features of the patch tokens alone, and of all tokens."""
    patches = visual.conv1(picture).flatten(2).transpose(1, 2)
    tokens = torch.cat([visual.class_embedding[None, None], patches], dim=1)
    positions = visual.positional_embedding
    results = []
    for x in (patches + positions[1:], tokens + positions):
        x = visual.ln_pre(x)
        x = x if batch_first else x.transpose(0, 1)
        for block in visual.transformer.resblocks:
            x = block(x)
        results.append(x if batch_first else x.transpose(0, 1))
    return results[0], results[1]


def make_openai(folder: Path) -> None:
    """Write the golden ``clip``, whose matrices are rounded to half precision, as in the files."""
    official_clip = module_of("clip", folder / "clip", "model")
    model = official_clip.CLIP(
        embed_dim=16,
        image_resolution=SIDE,
        vision_layers=2,
        vision_width=64,
        vision_patch_size=PATCH,
        context_length=5,
        vocab_size=11,
        transformer_width=64,
        transformer_heads=1,
        transformer_layers=1,
    ).eval()
    # The class of the whole model gives a tower of this width a single head.
    model.visual = official_clip.VisionTransformer(
        input_resolution=SIDE, patch_size=PATCH, width=WIDTH, layers=2, heads=2, output_dim=16
    ).eval()
    state = {name: value.clone() for name, value in golden.fill_model(model).items()}
    official_clip.convert_weights(model)
    patches, tokens = features(model.visual.float(), golden.image(SIDE, SIDE), batch_first=False)
    golden.save_golden(
        "clip",
        made_with={"repository": "openai/CLIP", "commit": golden.commit_of(folder)},
        how=f"CLIP with VisionTransformer(input_resolution={SIDE}, patch_size={PATCH}, "
        f"width={WIDTH}, layers=2, heads=2); what convert_weights() rounds to half precision is "
        "rounded, then computed in single precision",
        state=state,
        image_size=(SIDE, SIDE),
        features=patches,
        with_prefix=tokens,
    )


def make_open_clip(folder: Path) -> None:
    """Write the golden ``openclip``: exact GELU and LayerScale."""
    transformer = module_of("open_clip", folder / "src" / "open_clip", "transformer")
    visual = transformer.VisionTransformer(
        image_size=SIDE,
        patch_size=PATCH,
        width=WIDTH,
        layers=2,
        heads=2,
        mlp_ratio=4.0,
        ls_init_value=1.0,
        output_dim=16,
    )
    text = transformer.TextTransformer(
        context_length=5, vocab_size=11, width=16, heads=2, layers=1, output_dim=16
    )
    model = nn.ModuleDict({"visual": visual, "transformer": text.transformer}).eval()
    model.token_embedding = text.token_embedding
    model.positional_embedding = text.positional_embedding
    model.ln_final = text.ln_final
    model.text_projection = text.text_projection
    model.logit_scale = nn.Parameter(torch.zeros([]))
    state = golden.fill_model(model)
    patches, tokens = features(visual, golden.image(SIDE, SIDE), batch_first=True)
    golden.save_golden(
        "openclip",
        made_with={"repository": "mlfoundations/open_clip", "commit": golden.commit_of(folder)},
        how=f"CLIP with VisionTransformer(image_size={SIDE}, patch_size={PATCH}, width={WIDTH}, "
        "layers=2, heads=2, mlp_ratio=4, ls_init_value=1)",
        state=state,
        image_size=(SIDE, SIDE),
        features=patches,
        with_prefix=tokens,
    )


def main() -> None:
    """Write the goldens."""
    make_openai(official.checkout(1))
    make_open_clip(official.checkout(2))


if __name__ == "__main__":
    main()
