# SPDX-License-Identifier: Apache-2.0
"""Goldens of MAE: ``python -m tests.pretrained.goldens.make_mae CHECKOUT`` of mae."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from tests.pretrained import golden
from tests.pretrained.goldens import official

NORM = partial(nn.LayerNorm, eps=1e-6)


def unshuffled(model: nn.Module, picture: Tensor) -> Tensor:
    """Return all tokens of the encoder, which shuffles the patches even when it masks none."""
    restore: list[Tensor] = []

    def run() -> None:
        restore.append(model.forward_encoder(picture, mask_ratio=0.0)[2])

    tokens = official.all_tokens(model, run)
    index = restore[0][..., None].expand(-1, -1, tokens.shape[-1])
    return torch.cat([tokens[:, :1], tokens[:, 1:].gather(1, index)], dim=1)


def main() -> None:
    """Write the goldens ``mae``, ``mae_p14`` and ``mae_finetuned``."""
    folder = official.checkout()
    official.prepare_timm()
    made_with = {"repository": "facebookresearch/mae", "commit": golden.commit_of(folder)}
    for name, patch in (("mae", 16), ("mae_p14", 14)):
        side = 3 * patch
        model = (
            official.load("models_mae")
            .MaskedAutoencoderViT(
                img_size=side,
                patch_size=patch,
                embed_dim=24,
                depth=2,
                num_heads=3,
                decoder_embed_dim=16,
                decoder_depth=1,
                decoder_num_heads=2,
                norm_layer=NORM,
            )
            .eval()
        )
        state = golden.fill_model(model)
        picture = golden.image(side, side)
        golden.save_golden(
            name,
            made_with=made_with,
            how=f"MaskedAutoencoderViT(img_size={side}, patch_size={patch}, embed_dim=24, depth=2, "
            "num_heads=3, eps=1e-6); with_prefix: forward_encoder(mask_ratio=0), unshuffled",
            state=state,
            image_size=(side, side),
            features=official.patch_only(model, picture, 1),
            with_prefix=unshuffled(model, picture),
        )
    model = (
        official.load("models_vit")
        .VisionTransformer(
            img_size=48,
            patch_size=16,
            embed_dim=24,
            depth=2,
            num_heads=3,
            num_classes=5,
            qkv_bias=True,
            norm_layer=NORM,
            global_pool=True,
        )
        .eval()
    )
    state = golden.fill_model(model)
    picture = golden.image(48, 48)
    golden.save_golden(
        "mae_finetuned",
        made_with=made_with,
        how="models_vit.VisionTransformer(img_size=48, patch_size=16, embed_dim=24, depth=2, "
        "num_heads=3, global_pool=True, eps=1e-6); with_prefix: forward_features",
        state=state,
        image_size=(48, 48),
        features=official.patch_only(model, picture, 1),
        with_prefix=official.all_tokens(model, partial(model.forward_features, picture)),
    )


if __name__ == "__main__":
    main()
