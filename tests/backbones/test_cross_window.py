# SPDX-License-Identifier: Apache-2.0
import logging

import pytest
import torch
from torch import nn

from tests.backbones.vit_case import TINY, pixels, run
from tests.closed_form import fill_
from vitdet_d2.backbones import ViT
from vitdet_d2.backbones.cross_window import BlockPlan, plan_blocks
from vitdet_d2.errors import RecipeError

PLAIN = {
    "depth": 12,
    "window_size": 14,
    "cross_window": None,
    "cross_window_indexes": None,
    "conv_block": "bottleneck",
    "window_block_indexes": (),
    "residual_block_indexes": (),
}
KINDS = ["naive", "basic", "bottleneck"]


def plan(**changes):
    """Return the blocks with global attention, shifted windows, and a convolutional block."""
    plans = plan_blocks(**{**PLAIN, **changes})
    assert {p.window_size for p in plans} <= {0, 14}
    assert {p.shift for p in plans} <= {0, 7}
    return tuple(
        [i for i, p in enumerate(plans) if chosen(p)]
        for chosen in (
            lambda p: p.window_size == 0,
            lambda p: p.shift > 0,
            lambda p: p.conv_block is not None,
        )
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"cross_window": "global"}, ([2, 5, 8, 11], [], [])),
        ({"cross_window": "conv"}, ([], [], [2, 5, 8, 11])),
        ({"cross_window": "shifted"}, ([], [1, 3, 5, 7, 9, 11], [])),
        ({"cross_window": "none"}, ([], [], [])),
        ({"cross_window": "global", "cross_window_indexes": [7, 3]}, ([3, 7], [], [])),
        ({"cross_window": "global", "cross_window_indexes": range(12)}, (list(range(12)), [], [])),
        ({"cross_window": "conv", "cross_window_indexes": [0]}, ([], [], [0])),
        ({"cross_window": "shifted", "cross_window_indexes": [4]}, ([], [4], [])),
        ({"cross_window": "global", "depth": 3}, ([0, 1, 2], [], [])),
    ],
)
def test_strategies(arguments, expected):
    assert plan(**arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, (list(range(12)), [], [])),
        ({"window_block_indexes": [0, 1]}, (list(range(2, 12)), [], [])),
        ({"window_block_indexes": range(12), "residual_block_indexes": [5]}, ([], [], [5])),
        # Numbers beyond the depth do nothing there.
        ({"window_block_indexes": range(1, 20)}, ([0], [], [])),
        ({"window_size": 0, "window_block_indexes": [0]}, (list(range(12)), [], [])),
    ],
)
def test_without_a_strategy_the_lists_of_detectron2_decide(arguments, expected):
    assert plan(**arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "expected", "message"),
    [
        (
            {"cross_window": "global", "window_block_indexes": [0, 1]},
            (list(range(2, 12)), [], []),
            "window_block_indexes=[0, 1] wins over cross_window='global'",
        ),
        (
            {"cross_window": "conv", "residual_block_indexes": [3]},
            ([], [], [3]),
            "residual_block_indexes=[3] wins over cross_window='conv', which asks for [2, 5, 8,",
        ),
        (
            {"cross_window": "shifted", "window_block_indexes": [2, 4, 5, 9]},
            ([0, 1, 3, 6, 7, 8, 10, 11], [4, 9], []),
            "window_block_indexes=[2, 4, 5, 9] wins",
        ),
    ],
)
def test_the_lists_of_detectron2_win_and_say_so(arguments, expected, message, caplog):
    with caplog.at_level(logging.WARNING):
        assert plan(**arguments) == expected
    (record,) = caplog.records
    assert message in record.getMessage()


def test_lists_that_agree_are_silent(caplog):
    with caplog.at_level(logging.WARNING):
        plan(cross_window="conv", window_block_indexes=range(12), residual_block_indexes=[2, 5, 8])
        caplog.clear()
        plan(cross_window="none", window_block_indexes=range(12))
    assert not caplog.records


def test_a_kind_without_convolutional_blocks_is_named(caplog):
    with caplog.at_level(logging.WARNING):
        plan(cross_window="global", conv_block="naive")
    (record,) = caplog.records
    assert "conv_block='naive' has no effect" in record.getMessage()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cross_window": "swin"}, "expected one of global, conv, shifted, none, got 'swin'"),
        ({"conv_block": "big"}, "expected one of naive, basic, bottleneck, got 'big'"),
        ({"cross_window": "conv", "window_size": 0}, "expected at least 1 .*got 0; ViTDet's is 14"),
        ({"cross_window": "shifted", "window_size": 1}, "expected at least 2 .*got 1"),
        ({"cross_window_indexes": [2]}, r"expected cross_window with it, got \[2\] alone"),
        ({"cross_window": "global", "cross_window_indexes": [12]}, "numbers from 0 to 11"),
        ({"cross_window": "conv", "cross_window_indexes": [1, 1]}, "expected each block once"),
        ({"cross_window": "none", "cross_window_indexes": [1]}, r"cross_window='none', got \[1\]"),
        ({"cross_window": "global", "cross_window_indexes": []}, "got an empty list"),
        (
            {"cross_window": "global", "cross_window_indexes": 3},
            r"a list of .* \[2, 5, 8, 11\], got 3",
        ),
        ({"cross_window": "none", "cross_window_indexes": 3}, "cross_window='none', got 3"),
        ({"cross_window_indexes": 3}, "expected cross_window with it, got 3 alone"),
        (
            {
                "cross_window": "shifted",
                "cross_window_indexes": [3],
                "window_block_indexes": [1, 2],
            },
            r"expected windowed blocks to shift, got \[3\]",
        ),
    ],
)
def test_contradictions_are_mistakes_of_the_recipe(arguments, message):
    with pytest.raises(RecipeError, match=message):
        plan(**arguments)


def test_a_vit_follows_the_plan():
    arguments = {**TINY, "depth": 4, "window_block_indexes": ()}
    net = ViT(**arguments, cross_window="shifted", residual_block_indexes=(2,), conv_block="basic")
    plans = [
        BlockPlan(
            window_size=block.attn.window_size,
            shift=block.attn.shift,
            conv_block="basic" if block.use_residual_block else None,
        )
        for block in net.blocks
    ]
    assert plans == [
        BlockPlan(window_size=3),
        BlockPlan(window_size=3, shift=1),
        BlockPlan(window_size=3, conv_block="basic"),
        BlockPlan(window_size=3, shift=1),
    ]
    assert {m.method for m in _attentions(net)} == {"auto"}
    net.set_attention_method("explicit")
    assert {m.method for m in _attentions(net)} == {"explicit"}


def _attentions(net):
    return [block.attn for block in net.blocks]


def test_conv_equals_the_two_lists():
    arguments = {**TINY, "window_block_indexes": ()}
    ours, theirs = (
        ViT(**{**arguments, **more})
        for more in (
            {"cross_window": "conv", "cross_window_indexes": (1,)},
            {"window_block_indexes": (0, 1, 2), "residual_block_indexes": (1,)},
        )
    )
    (outputs, gradients), (expected, expected_gradients) = (
        run(net, pixels((64, 96))) for net in (ours, theirs)
    )
    assert torch.equal(outputs["last_feat"], expected["last_feat"])
    assert list(gradients) == list(expected_gradients)
    for name, gradient in gradients.items():
        assert torch.equal(gradient, expected_gradients[name]), name


@pytest.mark.parametrize(
    ("kind", "kernels"),
    [("naive", [3]), ("basic", [3, 3]), ("bottleneck", [1, 3, 1])],
)
def test_keys_of_convolutional_blocks(kind, kernels):
    net = ViT(**{**TINY, "window_block_indexes": ()}, cross_window="conv", conv_block=kind)
    names = ViT(**TINY).state_dict().keys()
    shapes = {k: tuple(v.shape) for k, v in net.state_dict().items() if k not in names}
    width = {"bottleneck": 12}.get(kind, 24)
    channels = [24, *([width] * (len(kernels) - 1)), 24]
    expected = {}
    for block in range(3):
        for i, kernel in enumerate(kernels, start=1):
            prefix = f"blocks.{block}.residual."
            expected[f"{prefix}conv{i}.weight"] = (channels[i], channels[i - 1], kernel, kernel)
            expected[f"{prefix}norm{i}.weight"] = expected[f"{prefix}norm{i}.bias"] = (channels[i],)
    assert shapes == expected


@pytest.mark.parametrize("hw", [(96, 96), (64, 96), (80, 48)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", [(0,), (1, 2)])
def test_adding_convolutional_blocks_changes_no_bit(kind, hw, where):
    """New weights, and those of a plain ViT loaded into them: windows of 3 need padding."""
    arguments = {**TINY, "window_block_indexes": (), "use_rel_pos": False}
    plain = fill_(ViT(**arguments, cross_window="none")).eval()
    net = ViT(**arguments, cross_window="conv", cross_window_indexes=where, conv_block=kind).eval()
    result = net.load_state_dict(plain.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert {name.split(".")[2] for name in result.missing_keys} == {"residual"}
    x = pixels(hw, torch.float32)
    with torch.no_grad():
        expected = plain(x)["last_feat"]
        assert torch.equal(net(x)["last_feat"], expected)
        last = net.blocks[where[0]].residual.get_submodule(f"norm{KINDS.index(kind) + 1}")
        nn.init.ones_(last.weight)
        assert not torch.allclose(net(x)["last_feat"], expected)


@pytest.mark.parametrize("use_abs_pos", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adding_convolutional_blocks_changes_no_bit_in_mixed_precision(use_abs_pos, dtype):
    """Without position embeddings the tokens themselves are of the low precision."""
    arguments = {**TINY, "window_block_indexes": (), "use_abs_pos": use_abs_pos}
    plain = fill_(ViT(**arguments, cross_window="none")).eval()
    net = ViT(**arguments, cross_window="conv").eval()
    net.load_state_dict(plain.state_dict(), strict=False)
    x = pixels((64, 96), torch.float32)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        expected, actual = plain(x)["last_feat"], net(x)["last_feat"]
    assert actual.dtype == expected.dtype
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("strategy", ["global", "conv", "shifted", "none"])
def test_every_strategy_trains_and_recomputes(strategy):
    """Activation checkpointing and drop path change no gradient of any strategy."""
    arguments = {
        **TINY,
        "window_block_indexes": (),
        "cross_window": strategy,
        "cross_window_indexes": None if strategy == "none" else (1,),
        "out_block_indexes": (0, 1),
        "drop_path_rate": 0.5,
    }
    results = []
    for use_act_checkpoint in (False, True):
        torch.manual_seed(0)
        results.append(
            run(ViT(**arguments, use_act_checkpoint=use_act_checkpoint), pixels((64, 96)))
        )
    (outputs, gradients), (again, gradients_again) = results
    assert all(torch.equal(again[name], value) for name, value in outputs.items())
    assert gradients.keys() == gradients_again.keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, gradients_again[name]), name
        assert gradient.any() or ".residual." not in name, name


@pytest.mark.parametrize("strategy", ["global", "conv", "shifted", "none"])
def test_how_far_a_token_sees(strategy):
    """A pixel changes what its strategy lets it reach, and nothing else.

    A map of 6 x 6 tokens in windows of 3, and two blocks; the second is the cross-window block.
    """
    arguments = {
        **TINY,
        "depth": 2,
        "use_rel_pos": False,
        "window_block_indexes": (),
        "cross_window": strategy,
        "cross_window_indexes": None if strategy == "none" else (1,),
    }
    net = fill_(ViT(**arguments)).eval()
    x = pixels((96, 96), torch.float32)[:1]
    changed = x.clone()
    changed[..., 0, 0] += 1.0
    with torch.no_grad():
        reached = (net(x)["last_feat"] != net(changed)["last_feat"]).any(dim=1)[0]
    expected = torch.zeros(6, 6, dtype=torch.bool)
    if strategy == "global":
        expected[:] = True
    elif strategy == "conv":
        expected[:4, :4] = True  # the window of the token, and one token around it
    elif strategy == "shifted":
        expected[:4, :4] = True  # windows begin at row and column 1, and hold 1 to 3
    else:
        expected[:3, :3] = True
    assert torch.equal(reached, expected)


@pytest.mark.parametrize("strategy", ["conv", "shifted"])
def test_strategies_build_on_the_meta_device(strategy):
    with torch.device("meta"):
        net = ViT(**{**TINY, "window_block_indexes": ()}, cross_window=strategy)
        outputs = net(torch.zeros(1, 3, 80, 48))
    assert outputs["last_feat"].shape == (1, 24, 5, 3)


def test_stages_are_the_maps_between_blocks():
    net = fill_(ViT(**TINY, out_block_indexes=(0, 2), out_feature="map"))
    assert net.state_dict().keys() == ViT(**TINY).state_dict().keys()
    shapes = net.output_shape()
    assert list(shapes) == ["stage1", "stage2", "map"]
    assert {(s.channels, s.stride) for s in shapes.values()} == {(24, 16)}
    seen = []
    for block in net.blocks:
        block.register_forward_hook(lambda _m, _i, out: seen.append(out.permute(0, 3, 1, 2)))
    outputs = net(pixels((64, 96), torch.float32))
    assert list(outputs) == ["stage1", "stage2", "map"]
    assert torch.equal(outputs["stage1"], seen[0])
    assert torch.equal(outputs["stage2"], seen[2])
    assert torch.equal(outputs["map"], seen[2])


@pytest.mark.parametrize(
    ("indexes", "message"),
    [
        ((0, 3), "out_block_indexes: expected block numbers from 0 to 2"),
        ((2, 1), r"out_block_indexes: expected increasing numbers, got \[2, 1\]"),
        ((1, 1), "out_block_indexes: expected each block once"),
    ],
)
def test_bad_stages_raise(indexes, message):
    with pytest.raises(RecipeError, match=message):
        ViT(**TINY, out_block_indexes=indexes)


def test_the_last_map_needs_a_name_of_its_own():
    with pytest.raises(RecipeError, match=r"those of the maps .* \(stage1\), got 'stage1'"):
        ViT(**TINY, out_block_indexes=[1], out_feature="stage1")


def test_images_are_padded_to_whole_patches():
    assert ViT(**{**TINY, "patch_size": 8}).size_divisibility == 8
