# SPDX-License-Identifier: Apache-2.0
"""Golden of DINO: ``python -m tests.pretrained.goldens.make_dino CHECKOUT`` of dino."""

from __future__ import annotations

from functools import partial

from torch import nn

from tests.pretrained import golden
from tests.pretrained.goldens import official


def main() -> None:
    """Write the golden ``dino``."""
    folder = official.checkout()
    module = official.load("vision_transformer")
    model = module.VisionTransformer(
        img_size=[24],
        patch_size=8,
        embed_dim=24,
        depth=2,
        num_heads=3,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    ).eval()
    state = golden.fill_model(model)
    picture = golden.image(24, 24)
    golden.save_golden(
        "dino",
        made_with={"repository": "facebookresearch/dino", "commit": golden.commit_of(folder)},
        how="VisionTransformer(img_size=24, patch_size=8, embed_dim=24, depth=2, num_heads=3, "
        "eps=1e-6); with_prefix: forward",
        state=state,
        image_size=(24, 24),
        features=official.patch_only(model, picture, 1),
        with_prefix=official.all_tokens(model, partial(model, picture)),
    )


if __name__ == "__main__":
    main()
