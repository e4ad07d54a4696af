# SPDX-License-Identifier: Apache-2.0
"""Golden of SAM: ``python -m tests.pretrained.goldens.make_sam CHECKOUT``.

The checkout is of facebookresearch/segment-anything.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from tests.pretrained import golden
from tests.pretrained.encoder_vit import read_encoder, vit_of
from tests.pretrained.goldens import official

# A grid of 5 x 5 tokens, which windows of 2 must pad.
SIDE = 80


def main() -> None:
    """Write the golden ``sam``: the whole model, features of its image encoder."""
    folder = official.checkout()
    modeling = official.load("segment_anything.modeling")
    encoder = modeling.ImageEncoderViT(
        img_size=SIDE,
        patch_size=16,
        embed_dim=32,
        depth=3,
        num_heads=2,
        out_chans=16,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=2,
        global_attn_indexes=[1],
    )
    model = modeling.Sam(
        image_encoder=encoder,
        prompt_encoder=modeling.PromptEncoder(
            embed_dim=16,
            image_embedding_size=(5, 5),
            input_image_size=(SIDE, SIDE),
            mask_in_chans=8,
        ),
        mask_decoder=modeling.MaskDecoder(
            num_multimask_outputs=3,
            transformer=modeling.TwoWayTransformer(
                depth=1, embedding_dim=16, mlp_dim=32, num_heads=2
            ),
            transformer_dim=16,
            iou_head_depth=2,
            iou_head_hidden_dim=16,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    ).eval()
    state = golden.fill_model(model)
    with torch.no_grad():
        x = encoder.patch_embed(golden.image(SIDE, SIDE)) + encoder.pos_embed
        for block in encoder.blocks:
            x = block(x)
    vit = vit_of(read_encoder(state), num_heads=2, window_size=2, window_block_indexes=[0, 2])
    vit.set_attention_method("explicit")
    ours = golden.patch_features(vit, golden.image(SIDE, SIDE))
    assert torch.equal(ours, x[0].flatten(0, 1)), "not the same bits as the official class"
    golden.save_golden(
        "sam",
        made_with={
            "repository": "facebookresearch/segment-anything",
            "commit": golden.commit_of(folder),
        },
        how=f"Sam with ImageEncoderViT(img_size={SIDE}, patch_size=16, embed_dim=32, depth=3, "
        "num_heads=2, use_rel_pos=True, window_size=2, global_attn_indexes=[1], eps=1e-6); "
        "features: before the neck",
        state=state,
        image_size=(SIDE, SIDE),
        features=x,
    )


if __name__ == "__main__":
    main()
