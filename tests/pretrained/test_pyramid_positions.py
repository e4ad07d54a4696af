# SPDX-License-Identifier: Apache-2.0
"""Positions of PVT for other sizes, in every stage."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.backbones.slow_pvt import slow_pvt
from tests.pretrained import golden
from tests.pretrained.pyramid_golden import SIZE, build, load_pyramid
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained import load


def test_positions_are_resized_in_every_stage() -> None:
    made = load_pyramid("pvt")
    larger = build("pvt", pretrain_img_size=96)
    report = load(larger, "x.pth", content=made.state())
    assert [(name, old[1], new[1]) for name, old, new in report.resized] == [
        ("pos_embed1", 256, 576), ("pos_embed2", 64, 144), ("pos_embed3", 16, 36),
        ("pos_embed4", 5, 10),
    ]  # fmt: skip
    assert report.supplied[0] == report.supplied[1]
    (alert,) = report.alerts
    assert "model.backbone.bottom_up.pretrain_img_size=64 keeps them" in alert
    state, found = made.state(), larger.state_dict()
    for stage, (side, new) in enumerate(((16, 24), (8, 12), (4, 6)), start=1):
        maps = state[f"pos_embed{stage}"].transpose(1, 2).unflatten(2, (side, side))
        wanted = nn.functional.interpolate(maps, size=(new, new), mode="bilinear")
        torch.testing.assert_close(found[f"pos_embed{stage}"], wanted.flatten(2).transpose(1, 2))
    assert torch.equal(found["pos_embed4"][:, 0], state["pos_embed4"][:, 0])
    # At the size of its own positions the model computes what one with the file's own does there.
    picture = golden.image(96, 96)
    same = build("pvt")
    load(same, "x.pth", content=state)
    with torch.no_grad():
        for ours, theirs in zip(larger(picture).values(), same(picture).values(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=golden.TOLERANCE, rtol=0)


@pytest.mark.parametrize("hw", [(32, 128), (128, 128)])
def test_positions_are_those_of_the_paper_at_other_sizes(hw: tuple[int, int]) -> None:
    """As 112 x 448, 448 x 448 and others are to 224 x 224, where the released code goes astray."""
    state = load_pyramid("pvt").state()
    backbone = build("pvt")
    load(backbone, "x.pth", content=state)
    picture = golden.image(*hw)
    numbers = {key: SIZE[key] for key in ("depths", "num_heads", "sr_ratios")}
    wanted = slow_pvt({n: v.double() for n, v in state.items()}, picture[0].double(), **numbers)
    with torch.no_grad():
        for name, found in backbone(picture).items():
            torch.testing.assert_close(
                found[0], wanted[name].float(), atol=golden.TOLERANCE, rtol=0
            )


def test_positions_of_no_square_need_their_grid() -> None:
    state = load_pyramid("pvt").state()
    for stage, (height, width) in enumerate(((8, 32), (4, 16), (2, 8), (1, 4)), start=1):
        rows = height * width + int(stage == 4)
        state[f"pos_embed{stage}"] = torch.randn(1, rows, state[f"pos_embed{stage}"].shape[2])
    backbone = build("pvt")
    load(backbone, "x.pth", content=state, position_grid=(8, 32))
    maps = state["pos_embed1"].transpose(1, 2).unflatten(2, (8, 32))
    wanted = nn.functional.interpolate(maps, size=(16, 16), mode="bilinear")
    torch.testing.assert_close(backbone.pos_embed1, wanted.flatten(2).transpose(1, 2))
    state["pos_embed2"] = torch.randn(1, 63, 12)
    with pytest.raises(WeightsError, match=r"pos_embed2: 63 positions, .* are no grid"):
        load(backbone, "x.pth", content=state)
