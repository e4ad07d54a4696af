# SPDX-License-Identifier: Apache-2.0
"""What must hold of every source and layout: no key is lost unseen, and facts are stated."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.pretrained import key_lists
from tests.pretrained.encoder_vit import read_encoder, vit_of
from tests.pretrained.golden import TOLERANCE, load_golden, patch_features
from tests.pretrained.sources.test_names import SERVED, file_of
from tests.pretrained.test_full_size import LISTS
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.container import unwrap
from vitdet_d2.pretrained.recognise import encoder_of

PAIRS = [(origin, layout) for origin, layout, _ in SERVED]
# Others have 1e-6.
EPS = {"clip": 1e-5, "openclip": 1e-5, "dinov3": 1e-5, "dinov3_sat": 1e-5}
# Others have 64 channels a head.
HEADS = {"mae_h": 16}


@pytest.mark.parametrize(("origin", "layout"), PAIRS)
def test_unknown_keys_are_errors_that_name_them(origin: str, layout: str) -> None:
    file = file_of(layout)
    more = {**file.state, "blocks.0.attn.temperature": torch.ones(2)}
    with pytest.raises(WeightsError, match=r"no such keys: blocks\.0\.attn\.temperature\. Every"):
        encoder_of("x", dataclasses.replace(file, state=more), origin)
    beside = (*file.beside, "adapter.weight")
    with pytest.raises(WeightsError, match=r"no such keys: adapter\.weight\. Every"):
        encoder_of("x", dataclasses.replace(file, beside=beside), origin)


@pytest.mark.parametrize(("origin", "layout"), PAIRS)
def test_eps_is_that_of_the_official_class(origin: str, layout: str) -> None:
    assert encoder_of("x", file_of(layout), origin).needs.eps == EPS.get(origin, 1e-6)


@pytest.mark.parametrize("name", LISTS)
def test_heads_are_those_of_the_official_class(name: str) -> None:
    content = key_lists.read(name)
    encoder = encoder_of(name, unwrap(name, {"model": content}))
    assert encoder.num_heads == HEADS.get(name, encoder.width // 64)


@pytest.mark.parametrize("name", ["mae", "moco_v3", "deit", "dino", "ijepa", "dinov2", "openclip"])
def test_transposed_positions_change_the_features(name: str) -> None:
    golden = load_golden(name)
    encoder = read_encoder(golden.state())
    vit = vit_of(encoder, num_heads=2 if name in ("dinov2", "openclip") else 3)
    torch.testing.assert_close(
        patch_features(vit, golden.image), golden.features, atol=TOLERANCE, rtol=0
    )
    side = round((vit.pos_embed.shape[1] - encoder.num_prefix) ** 0.5)
    with torch.no_grad():
        grid = vit.pos_embed[:, encoder.num_prefix :].unflatten(1, (side, side))
        vit.pos_embed[:, encoder.num_prefix :] = grid.transpose(1, 2).flatten(1, 2).clone()
    far = patch_features(vit, golden.image) - golden.features
    assert far.abs().max() > 100 * TOLERANCE
