# SPDX-License-Identifier: Apache-2.0
"""Goldens of iBOT: ``python -m tests.pretrained.goldens.make_ibot CHECKOUT`` of bytedance/ibot."""

from __future__ import annotations

from functools import partial

import torch

from tests.pretrained import golden
from tests.pretrained.goldens import official


def main() -> None:
    """Write the goldens ``ibot`` and ``ibot_scaled`` (with LayerScale)."""
    folder = official.checkout()
    official.prepare_timm()
    module = official.load("models.vision_transformer")
    for name, init_values in (("ibot", 0), ("ibot_scaled", 0.1)):
        model = module.VisionTransformer(
            img_size=[48],
            patch_size=16,
            embed_dim=24,
            depth=2,
            num_heads=3,
            qkv_bias=True,
            init_values=init_values,
            masked_im_modeling=True,
        ).eval()
        state = golden.fill_model(model)
        picture = golden.image(48, 48)
        unmasked = torch.zeros(1, 3, 3, dtype=torch.bool)
        golden.save_golden(
            name,
            made_with={"repository": "bytedance/ibot", "commit": golden.commit_of(folder)},
            how="VisionTransformer(img_size=48, patch_size=16, embed_dim=24, depth=2, num_heads=3, "
            f"init_values={init_values}, masked_im_modeling=True); with_prefix: forward, unmasked",
            state=state,
            image_size=(48, 48),
            features=official.patch_only(model, picture, 1),
            with_prefix=official.all_tokens(model, partial(model, picture, mask=unmasked)),
        )


if __name__ == "__main__":
    main()
