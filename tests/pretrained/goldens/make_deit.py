# SPDX-License-Identifier: Apache-2.0
"""Goldens of DeiT: ``python -m tests.pretrained.goldens.make_deit CHECKOUT`` of deit."""

from __future__ import annotations

from functools import partial

from torch import nn

from tests.pretrained import golden
from tests.pretrained.goldens import official

SIZE = "img_size=48, patch_size=16, embed_dim=24, depth=2, num_heads=3, eps=1e-6"
ARGUMENTS = {
    "img_size": 48,
    "patch_size": 16,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "qkv_bias": True,
    "num_classes": 5,
    "norm_layer": partial(nn.LayerNorm, eps=1e-6),
}


def main() -> None:
    """Write the goldens ``deit``, ``deit_distilled`` and ``deit3``."""
    folder = official.checkout()
    official.prepare_timm()
    models, models_v2 = official.load("models"), official.load("models_v2")
    plain = models.VisionTransformer(**ARGUMENTS)
    distilled = models.DistilledVisionTransformer(**ARGUMENTS)
    third = models_v2.vit_models(**ARGUMENTS, block_layers=models_v2.Layer_scale_init_Block)
    for name, model, num_prefix, how in (
        ("deit", plain, 1, f"VisionTransformer({SIZE})"),
        ("deit_distilled", distilled, 2, f"DistilledVisionTransformer({SIZE})"),
        # Its class token has no position.
        ("deit3", third, 0, f"vit_models({SIZE}, block_layers=Layer_scale_init_Block)"),
    ):
        state = golden.fill_model(model.eval())
        picture = golden.image(48, 48)
        golden.save_golden(
            name,
            made_with={"repository": "facebookresearch/deit", "commit": golden.commit_of(folder)},
            how=f"{how}; with_prefix: forward_features",
            state=state,
            image_size=(48, 48),
            features=official.patch_only(model, picture, num_prefix),
            with_prefix=official.all_tokens(model, partial(model.forward_features, picture)),
        )


if __name__ == "__main__":
    main()
