# SPDX-License-Identifier: Apache-2.0
"""Golden of MSN: ``python -m tests.pretrained.goldens.make_msn CHECKOUT`` of msn."""

from __future__ import annotations

from functools import partial

from torch import nn

from tests.pretrained import golden
from tests.pretrained.goldens import official


def main() -> None:
    """Write the golden ``msn``, with the projection head of the training script."""
    folder = official.checkout()
    model = official.load("src.deit").VisionTransformer(
        img_size=[48],
        patch_size=16,
        embed_dim=24,
        depth=2,
        num_heads=3,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    # As src/msn_train.py builds it.
    model.fc = nn.Sequential()
    for name, layer in (
        ("fc1", nn.Linear(24, 10)),
        ("bn1", nn.BatchNorm1d(10)),
        ("gelu1", nn.GELU()),
        ("fc2", nn.Linear(10, 10)),
        ("bn2", nn.BatchNorm1d(10)),
        ("gelu2", nn.GELU()),
        ("fc3", nn.Linear(10, 6)),
    ):
        model.fc.add_module(name, layer)
    state = golden.fill_model(model.eval())
    picture = golden.image(48, 48)
    golden.save_golden(
        "msn",
        made_with={"repository": "facebookresearch/msn", "commit": golden.commit_of(folder)},
        how="VisionTransformer(img_size=48, patch_size=16, embed_dim=24, depth=2, num_heads=3, "
        "eps=1e-6); with_prefix: forward",
        state=state,
        image_size=(48, 48),
        features=official.patch_only(model, picture, 1),
        with_prefix=official.all_tokens(model, partial(model, picture)),
    )


if __name__ == "__main__":
    main()
