# SPDX-License-Identifier: Apache-2.0
import pytest

from vitdet_d2.solver import get_vit_lr_decay_rate, layer_decay


@pytest.mark.parametrize(
    ("name", "exponent"),
    [
        ("backbone.net.pos_embed", 13),
        ("backbone.net.patch_embed.proj.weight", 13),
        ("backbone.net.norm_pre.weight", 13),
        ("backbone.net.rel_pos_bias_window", 0),
        ("backbone.net.blocks.0.attn.qkv.weight", 12),
        ("backbone.net.blocks.11.ls1.gamma", 1),
        ("backbone.net.blocks.1.attn.q_bias", 11),
        ("backbone.net.blocks.1.attn.relative_position_bias_table", 11),
        ("backbone.net.blocks.11.norm2.bias", 1),
        ("backbone.blocks.10.mlp.fc1.bias", 2),
        ("backbone.net.blocks.2.residual.conv1.weight", 0),
        ("backbone.simfp_2.0.weight", 0),
        ("roi_heads.blocks.1.weight", 0),
        ("proposal_generator.rpn_head.conv.weight", 0),
    ],
)
def test_factor_of_each_layer(name, exponent):
    assert get_vit_lr_decay_rate(name, lr_decay_rate=0.5, num_layers=12) == 0.5**exponent
    assert layer_decay(lr_decay_rate=0.5, num_layers=12)(name) == 0.5**exponent


def test_default_is_no_decay():
    assert get_vit_lr_decay_rate("backbone.net.pos_embed") == 1.0


@pytest.mark.parametrize("rate", [0.0, 1.5])
def test_rate_out_of_range_raises(rate):
    with pytest.raises(ValueError, match="expected 0 < lr_decay_rate <= 1"):
        layer_decay(rate, 12)
