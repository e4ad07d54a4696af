# SPDX-License-Identifier: Apache-2.0
"""Golden of I-JEPA: ``python -m tests.pretrained.goldens.make_ijepa CHECKOUT`` of ijepa."""

from __future__ import annotations

from functools import partial

from torch import nn

from tests.pretrained import golden
from tests.pretrained.goldens import official


def main() -> None:
    """Write the golden ``ijepa``."""
    folder = official.checkout()
    model = (
        official.load("src.models.vision_transformer")
        .VisionTransformer(
            img_size=[42],
            patch_size=14,
            embed_dim=24,
            depth=2,
            num_heads=3,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )
        .eval()
    )
    state = golden.fill_model(model)
    picture = golden.image(42, 42)
    golden.save_golden(
        "ijepa",
        made_with={"repository": "facebookresearch/ijepa", "commit": golden.commit_of(folder)},
        how="VisionTransformer(img_size=42, patch_size=14, embed_dim=24, depth=2, num_heads=3, "
        "eps=1e-6): forward; it has no prefix token",
        state=state,
        image_size=(42, 42),
        features=official.all_tokens(model, partial(model, picture)),
    )


if __name__ == "__main__":
    main()
