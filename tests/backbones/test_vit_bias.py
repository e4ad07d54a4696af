# SPDX-License-Identifier: Apache-2.0
"""Relative position bias tables of a whole ViT: keys, sharing, sizes, training."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling.backbone import build_backbone

from tests.backbones.vit_case import TINY, pixels, run
from tests.closed_form import fill_
from vitdet_d2.backbones import ViT, add_vitdet_config
from vitdet_d2.backbones import vit as vit_module
from vitdet_d2.errors import RecipeError
from vitdet_d2.layers.bias_strips import table_to_strips
from vitdet_d2.layers.bias_table import resize_bias_table

KINDS = ["per_block", "shared"]


def tables(net):
    return {k: tuple(v.shape) for k, v in net.state_dict().items() if "bias_" in k}


def test_keys_and_shapes():
    """Windows of 3 tokens, a global block on 6 x 6."""
    per_block = tables(ViT(**TINY, rel_pos_bias="per_block"))
    name = "blocks.{}.attn.relative_position_bias_table"
    assert per_block == {name.format(i): (121 if i == 2 else 25, 3) for i in range(3)}
    shared = tables(ViT(**TINY, rel_pos_bias="shared"))
    assert shared == {"rel_pos_bias_window": (25, 3), "rel_pos_bias_global": (121, 3)}
    no_windows = ViT(
        **{**TINY, "window_size": 0, "window_block_indexes": ()}, rel_pos_bias="shared"
    )
    assert tables(no_windows) == {"rel_pos_bias_global": (121, 3)}
    only_windows = ViT(**{**TINY, "window_block_indexes": (0, 1, 2)}, rel_pos_bias="shared")
    assert tables(only_windows) == {"rel_pos_bias_window": (25, 3)}


@pytest.mark.parametrize("kind", KINDS)
def test_other_keys_are_those_of_the_plain_model(kind):
    plain = ViT(**TINY)
    net = ViT(**TINY, rel_pos_bias=kind)
    assert not tables(plain)
    assert [k for k in net.state_dict() if k not in tables(net)] == list(plain.state_dict())
    assert not any(net.state_dict()[k].any() for k in tables(net))
    assert (net.rel_pos_bias, plain.rel_pos_bias) == (kind, None)
    # New tables are zero, and change nothing.
    fill_(plain)
    net.load_state_dict(plain.state_dict(), strict=False)
    x = pixels((64, 96), torch.float32)
    torch.testing.assert_close(net(x)["last_feat"], plain(x)["last_feat"])


def test_shared_is_per_block_with_copies():
    shared, per_block = (ViT(**TINY, rel_pos_bias=kind) for kind in ("shared", "per_block"))
    fill_(shared)
    state = shared.state_dict()
    window, whole = state.pop("rel_pos_bias_window"), state.pop("rel_pos_bias_global")
    for i, table in enumerate((window, window, whole)):
        state[f"blocks.{i}.attn.relative_position_bias_table"] = table
    per_block.load_state_dict(state)
    x = pixels((64, 80), torch.float32)
    one, other = shared(x)["last_feat"], per_block(x)["last_feat"]
    torch.testing.assert_close(one, other)
    one.sum().backward()
    other.sum().backward()
    blocks = [block.attn.relative_position_bias_table.grad for block in per_block.blocks]
    torch.testing.assert_close(shared.rel_pos_bias_window.grad, blocks[0] + blocks[1])
    torch.testing.assert_close(shared.rel_pos_bias_global.grad, blocks[2])


@pytest.mark.parametrize("kind", KINDS)
def test_other_image_sizes_are_those_of_a_resized_table(kind):
    """A map that is not square: 4 x 8 tokens in place of 6 x 6."""
    net = fill_(ViT(**TINY, rel_pos_bias=kind).double())
    x = pixels((64, 128))
    resized = net(x)["last_feat"]
    attn = net.blocks[2].attn
    shared = kind == "shared"
    table = net.rel_pos_bias_global if shared else attn.relative_position_bias_table
    again = torch.nn.Parameter(resize_bias_table(table, (6, 6), (4, 8)).detach())
    attn.input_size = (4, 8)
    if shared:
        net._grid = (4, 8)
        net.rel_pos_bias_global = again
    else:
        attn.relative_position_bias_table = again
    torch.testing.assert_close(net(x)["last_feat"], resized)
    again.data.zero_()
    assert not torch.allclose(net(x)["last_feat"], resized)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["augmented", "chunked"])
def test_checkpointing_and_methods_change_no_number(kind, method):
    results = []
    for use_act_checkpoint, way in ((False, "explicit"), (True, method)):
        net = ViT(**TINY, rel_pos_bias=kind, use_act_checkpoint=use_act_checkpoint)
        net.set_attention_method(way)
        outputs, gradients = run(net, pixels((64, 96)))
        results.append({**outputs, **gradients})
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, msg=name)


@pytest.mark.parametrize("use_act_checkpoint", [False, True])
def test_shared_tables_are_laid_out_once(use_act_checkpoint, monkeypatch):
    """For all blocks of a kind together, also if these are computed again; gradients add up."""
    laid_out = []

    def counted(table, old_hw, new_hw):
        laid_out.append(new_hw)
        return table_to_strips(table, old_hw, new_hw)

    monkeypatch.setattr(vit_module, "table_to_strips", counted)
    net = fill_(ViT(**TINY, rel_pos_bias="shared", use_act_checkpoint=use_act_checkpoint))
    x = pixels((64, 80), torch.float32)
    net(x)["last_feat"].sum().backward()
    assert laid_out == [(3, 3), (4, 5)]
    once = [table.grad.clone() for table in (net.rel_pos_bias_window, net.rel_pos_bias_global)]
    net(x)["last_feat"].sum().backward()
    for table, gradient in zip(
        (net.rel_pos_bias_window, net.rel_pos_bias_global), once, strict=True
    ):
        assert gradient.abs().max() > 0
        torch.testing.assert_close(table.grad, 2 * gradient)


def test_as_yacs_options():
    cfg = get_cfg()
    add_vitdet_config(cfg)
    assert cfg.MODEL.VIT.REL_POS_BIAS is None
    cfg.MODEL.BACKBONE.NAME = "build_vit_backbone"
    for name, value in TINY.items():
        cfg.MODEL.VIT[name.upper()] = value
    cfg.MODEL.VIT.REL_POS_BIAS = "shared"
    assert "rel_pos_bias_window" in tables(build_backbone(cfg))
    cfg.MODEL.VIT.REL_POS_BIAS = "share"
    with pytest.raises(RecipeError, match=r"REL_POS_BIAS: .*'shared'.*did you mean shared"):
        build_backbone(cfg)


@pytest.mark.parametrize("value", ["sharred", True, 1])
def test_unknown_kind_raises(value):
    with pytest.raises(RecipeError, match="rel_pos_bias: expected one of None, 'per_block'"):
        ViT(**TINY, rel_pos_bias=value)
