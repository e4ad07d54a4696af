# SPDX-License-Identifier: Apache-2.0
"""PVT v1 at the sizes where its official code fails or is wrong; elsewhere there are goldens."""

import pytest
import torch

from tests.backbones.pyramid_case import TINY, images, make
from tests.backbones.slow_pvt import slow_pvt

# With positions for 64 x 64 pixels the first stage has 256. Official code takes positions as they
# are wherever a stage has 256 tokens: it fails at 128 x 128 in the second stage and at 256 x 256 in
# the third, and gives 32 x 128 those of a square. Pre-trained at 224: 448, 896, and 112 x 448.
CASES = [(64, (128, 128)), (64, (256, 256)), (64, (32, 128)), (64, (64, 64)), (224, (448, 448))]
ARGUMENTS = {key: TINY[key] for key in ("depths", "num_heads", "sr_ratios")}


@pytest.mark.parametrize(("pretrain_img_size", "hw"), CASES)
def test_every_stage_resizes_its_own_positions(pretrain_img_size, hw):
    net = make("pvt", pretrain_img_size=pretrain_img_size)
    x = images(*hw)[:1]
    with torch.no_grad():
        maps = net(x)
        expected = slow_pvt(net.state_dict(), x[0], **ARGUMENTS)
    for key, value in maps.items():
        torch.testing.assert_close(value[0], expected[key])


def test_gradients_match_the_slow_reference_on_an_odd_size():
    net = make("pvt")
    x = images(45, 70)[:1]
    sum(m.square().sum() for m in net(x).values()).backward()
    weights = {name: p.detach().requires_grad_() for name, p in net.named_parameters()}
    expected = slow_pvt(weights, x[0], **ARGUMENTS)
    sum(m.square().sum() for m in expected.values()).backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, weights[name].grad)


def test_class_row_of_the_last_stage_is_not_used():
    net = make("pvt")
    x = images(64, 64)
    before = net(x)["res5"]
    with torch.no_grad():
        net.pos_embed4[:, 0] += 10
    assert torch.equal(net(x)["res5"], before)
    assert [net.get_parameter(f"pos_embed{s}").shape[1] for s in range(1, 5)] == [256, 64, 16, 5]
