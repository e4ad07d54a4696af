# SPDX-License-Identifier: Apache-2.0
"""Make the goldens of BEiT and BEiT v2 with their official classes.

    python -m tests.pretrained.goldens.make_beit UNILM

UNILM is a checkout of https://github.com/microsoft/unilm (``beit`` and ``beit2`` are enough). SciPy
has no ``interp2d`` any more; `RectBivariateSpline` stands in for it, which is the same spline.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import textwrap
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from scipy.interpolate import RectBivariateSpline
from torch import Tensor, nn

from tests.pretrained.golden import commit_of, fill, fill_model, image, save_golden

PATCH = 4
GRID = 4
# Coprime to the sides of tables, so that all rows and columns are met.
TABLE_STEP = 61
SIZE = {
    "patch_size": PATCH,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 2,
    "norm_layer": partial(nn.LayerNorm, eps=1e-6),
    "init_values": 0.1,
    "qkv_bias": True,
}
SAID = "patch_size=4, embed_dim=24, depth=2, num_heads=2, LayerNorm eps 1e-6, init_values=0.1"


def official(checkout: Path, folder: str) -> tuple[ModuleType, ModuleType]:
    """Import ``modeling_finetune`` and ``modeling_pretrain`` of one of the two versions."""
    names = ("modeling_finetune", "modeling_pretrain")
    for name in names:
        sys.modules.pop(name, None)
    sys.path.insert(0, str(checkout / folder))
    finetune, pretrain = (importlib.import_module(name) for name in names)
    sys.path.pop(0)
    return finetune, pretrain


def block_bias(attention: nn.Module) -> Tensor:
    """Return the bias ``(heads, 1 + N, 1 + N)`` of a block's own table."""
    index = attention.relative_position_index
    return attention.relative_position_bias_table[index].permute(2, 0, 1)


@torch.no_grad()
def features(model: nn.Module, picture: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens after the last block: of the patches alone, and with the class token."""
    model.eval()
    patches = model.patch_embed(picture)
    both = torch.cat([model.cls_token, patches], dim=1)
    if model.pos_embed is not None:
        both = both + model.pos_embed
    shared = None if model.rel_pos_bias is None else model.rel_pos_bias()
    x = both
    for block in model.blocks:
        x = block(x, rel_pos_bias=shared)
    alone = both[:, 1:]
    for block in model.blocks:
        table = block.attn.relative_position_bias_table
        bias = shared if table is None else block_bias(block.attn)
        block.attn.relative_position_bias_table = None
        alone = block(alone, rel_pos_bias=None if bias is None else bias[:, 1:, 1:])
        block.attn.relative_position_bias_table = table
    return alone, x


class Interp2d:
    """What the official code needs of SciPy's former ``interp2d``."""

    def __init__(self, x: Any, y: Any, z: Any, kind: str) -> None:
        assert kind == "cubic"
        self.spline = RectBivariateSpline(y, x, z, kx=3, ky=3, s=0)

    def __call__(self, x: Any, y: Any) -> np.ndarray:
        return self.spline(y, x)


def resize(checkout: Path, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Run the part of the official fine-tuning script that fits a state dict to a model."""
    text = (checkout / "beit2" / "run_class_finetuning.py").read_text()
    start = text.index("        if getattr(model, 'use_rel_pos_bias', False) and")
    stop = text.index("        utils.load_state_dict(model, checkpoint_model")
    names = {
        "model": model,
        "checkpoint_model": dict(state),
        "np": np,
        "torch": torch,
        "interpolate": SimpleNamespace(interp2d=Interp2d),
    }
    exec(textwrap.dedent(text[start:stop]), names)
    return names["checkpoint_model"]


class Maker:
    """Fills a model, runs it, and saves the golden."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self.made_with = {
            "repository": "https://github.com/microsoft/unilm",
            "commit": commit_of(checkout),
        }

    def save(self, name: str, how: str, model: nn.Module) -> None:
        side = GRID * PATCH
        state = fill_model(model)
        alone, both = features(model, image(side, side))
        self._save(name, f"{how}, {SAID}", state, side, alone, both)

    def save_resized(self, name: str, how: str, small: nn.Module, large: nn.Module) -> None:
        """Save the small model's weights with the features of a large one that they are fitted to.

        Args:
            name: of the golden.
            how: the class with its arguments.
            small: of grid `GRID`.
            large: of another one.
        """
        state = fill_model(small)
        missing, unexpected = large.load_state_dict(
            resize(self.checkout, state, large), strict=False
        )
        assert not unexpected
        assert all(k.endswith("relative_position_index") for k in missing)
        side = large.patch_embed.img_size[0]
        alone, both = features(large, image(side, side))
        self._save(name, f"{how}, {SAID}", state, side, alone, both)

    def save_table(self, name: str, side: int, new_side: int, heads: int) -> None:
        """Save every `TABLE_STEP`-th row of a shared table that is fitted to another grid."""
        key = "rel_pos_bias.relative_position_bias_table"
        state = {key: fill(key, ((2 * side - 1) ** 2 + 3, heads))}
        own = "blocks.0.attn.relative_position_bias_table"
        model = SimpleNamespace(
            use_rel_pos_bias=True,
            pos_embed=None,
            patch_embed=SimpleNamespace(patch_shape=(new_side, new_side)),
            get_num_layers=lambda: 1,
            state_dict=lambda: {own: torch.empty((2 * new_side - 1) ** 2 + 3, heads)},
        )
        table = resize(self.checkout, state, model)[own]
        save_golden(
            name,
            made_with=self.made_with,
            how=f"a shared table of {side}x{side} tokens, fitted to {new_side}x{new_side} by "
            f"beit2/run_class_finetuning.py: rows ::{TABLE_STEP} without the last three",
            state=state,
            image_size=(1, 1),
            features=table[:-3:TABLE_STEP],
        )

    def _save(
        self, name: str, how: str, state: dict[str, Tensor], side: int, alone: Tensor, both: Tensor
    ) -> None:
        save_golden(
            name,
            made_with=self.made_with,
            how=how,
            state=state,
            image_size=(side, side),
            features=alone,
            with_prefix=both,
        )


def main() -> None:
    """Make all goldens."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkout", type=Path)
    make = Maker(parser.parse_args().checkout)
    side = GRID * PATCH

    finetune, pretrain = official(make.checkout, "beit")
    masked = {"img_size": side, "vocab_size": 16, "use_abs_pos_emb": False}
    make.save(
        "beit_pretrained",
        "beit VisionTransformerForMaskedImageModeling(use_shared_rel_pos_bias, no abs_pos_emb)",
        pretrain.VisionTransformerForMaskedImageModeling(
            **SIZE, **masked, use_shared_rel_pos_bias=True
        ),
    )
    tuned = {"num_classes": 5, "use_rel_pos_bias": True}
    make.save(
        "beit_finetuned",
        "beit VisionTransformer(use_rel_pos_bias, no abs_pos_emb)",
        finetune.VisionTransformer(**SIZE, **tuned, img_size=side, use_abs_pos_emb=False),
    )
    make.save_resized(
        "beit_resized",
        "beit VisionTransformer(use_rel_pos_bias, abs_pos_emb) of 16x16 pixels, fitted to 28x28 by "
        "beit2/run_class_finetuning.py",
        finetune.VisionTransformer(**SIZE, **tuned, img_size=side),
        finetune.VisionTransformer(**SIZE, **tuned, img_size=side + 3 * PATCH),
    )

    finetune, pretrain = official(make.checkout, "beit2")
    make.save(
        "beitv2_pretrained",
        "beit2 VisionTransformerForMaskedImageModelingCLS(use_shared_rel_pos_bias, early_layers=1, "
        "head_layers=1, no shared_lm_head, no abs_pos_emb)",
        pretrain.VisionTransformerForMaskedImageModelingCLS(
            **SIZE,
            **masked,
            use_shared_rel_pos_bias=True,
            early_layers=1,
            head_layers=1,
            shared_lm_head=False,
        ),
    )
    make.save(
        "beitv2_positions",
        "beit2 VisionTransformerForMaskedImageModeling(use_shared_rel_pos_bias, abs_pos_emb)",
        pretrain.VisionTransformerForMaskedImageModeling(
            **SIZE, img_size=side, vocab_size=16, use_shared_rel_pos_bias=True
        ),
    )
    make.save(
        "beitv2_finetuned",
        "beit2 VisionTransformer(use_rel_pos_bias, no abs_pos_emb, qkv_bias=False)",
        finetune.VisionTransformer(
            **{**SIZE, "qkv_bias": False}, **tuned, img_size=side, use_abs_pos_emb=False
        ),
    )
    # A detector of 1024 pixels: patches of 16 make 64 tokens a side.
    make.save_table("beit_table", side=14, new_side=64, heads=3)


if __name__ == "__main__":
    main()
