# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.backbones.vit_case import CASES, TINY, fingerprint, pixels, run
from tests.closed_form import fill_
from vitdet_d2.backbones import VIT_SIZES, ViT, vit_arguments

GOLDEN = load_file(Path(__file__).with_name("golden_vit.safetensors"))


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_match_goldens(case):
    arguments, hw = CASES[case]
    outputs, gradients = run(ViT(**{**TINY, **arguments}), pixels(hw))
    # Measured in float64; 1e-9 leaves room for another BLAS.
    expected = GOLDEN[f"{case}/output"]
    torch.testing.assert_close(fingerprint(outputs["last_feat"]), expected, rtol=1e-9, atol=1e-9)
    stored = {k.split("/")[-1]: v for k, v in GOLDEN.items() if k.startswith(f"{case}/gradient/")}
    assert gradients.keys() == stored.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(fingerprint(gradient), stored[name], rtol=1e-9, atol=1e-9)


def test_whole_output_matches_golden():
    outputs, _ = run(ViT(**TINY), pixels(CASES["base"][1], torch.float32))
    expected = GOLDEN["base/whole_output"]
    # float32 through three blocks; the project's bar for whole backbones is 1e-5.
    assert (outputs["last_feat"] - expected).abs().max() < 2e-6 * expected.abs().max()


@pytest.mark.parametrize("method", ["explicit", "augmented", "chunked", "tiled"])
@pytest.mark.parametrize("case", ["base", "ragged_image"])
def test_every_attention_method_gives_the_same(case, method):
    arguments, hw = CASES[case]
    net = ViT(**{**TINY, **arguments})
    net.set_attention_method(method)
    outputs, gradients = run(net, pixels(hw))
    expected = GOLDEN[f"{case}/output"]
    torch.testing.assert_close(fingerprint(outputs["last_feat"]), expected, rtol=1e-9, atol=1e-9)
    name = "blocks.2.attn.rel_pos_w"
    stored = GOLDEN[f"{case}/gradient/{name}"]
    torch.testing.assert_close(fingerprint(gradients[name]), stored, rtol=1e-9, atol=1e-9)


def test_activation_checkpointing_changes_no_number():
    x = pixels((64, 96))
    arguments = {**TINY, "drop_path_rate": 0.5}
    results = []
    for use_act_checkpoint in (False, True, "selective"):
        torch.manual_seed(0)
        results.append(run(ViT(**arguments, use_act_checkpoint=use_act_checkpoint), x))
    plain, plain_gradients = results[0]
    for again, again_gradients in results[1:]:
        assert torch.equal(plain["last_feat"], again["last_feat"])
        assert plain_gradients.keys() == again_gradients.keys()
        for name, gradient in plain_gradients.items():
            assert torch.equal(gradient, again_gradients[name]), name


def test_activation_checkpointing_stores_less():
    def stored_elements(use_act_checkpoint):
        count = 0

        def pack(value):
            nonlocal count
            count += value.numel()
            return value

        net = ViT(**TINY, use_act_checkpoint=use_act_checkpoint)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            net(pixels((96, 96), torch.float32))
        return count

    assert stored_elements(True) < stored_elements(False) / 2


def test_autocast_stays_close():
    net = fill_(ViT(**TINY))
    x = pixels((64, 96), torch.float32)
    expected = net(x)["last_feat"]
    with torch.autocast("cpu", torch.bfloat16):
        actual = net(x)["last_feat"]
    actual.float().sum().backward()
    assert net.blocks[2].attn.rel_pos_h.grad.isfinite().all()
    # Eight bits of mantissa through three blocks.
    assert (actual - expected).abs().max() < 0.03 * expected.abs().max()


def test_output_shape_and_declared_shape():
    net = ViT(**TINY, out_feature="map")
    (name, shape), *rest = net.output_shape().items()
    assert (name, shape.channels, shape.stride, rest) == ("map", 24, 16, [])
    assert net(torch.zeros(1, 3, 48, 80))["map"].shape == (1, 24, 3, 5)


def test_new_weights_follow_the_recipe():
    net = ViT(**{**TINY, "embed_dim": 192, "residual_block_indexes": (1,)})
    linear = net.blocks[0].attn.qkv
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not linear.bias.any()
    assert net.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)
    assert not net.blocks[0].attn.rel_pos_h.any()
    assert not net.blocks[1].residual.norm3.weight.any()
    other = ViT(**TINY, rel_pos_zero_init=False)
    assert other.blocks[0].attn.rel_pos_h.std().item() == pytest.approx(0.02, rel=0.3)


def test_drop_path_grows_linearly_and_is_drawn_on_no_device():
    with torch.device("meta"):
        net = ViT(**{**TINY, "depth": 5}, drop_path_rate=0.4)
    assert isinstance(net.blocks[0].drop_path, nn.Identity)
    rates = [block.drop_path.drop_prob for block in net.blocks[1:]]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_no_index_tensor_is_kept():
    net = ViT(**TINY)
    assert not list(net.buffers())
    net(torch.zeros(1, 3, 64, 64))
    assert not list(net.buffers())


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("ti", (192, 12, 3, (2, 5, 8, 11))),
        ("s", (384, 12, 6, (2, 5, 8, 11))),
        ("b", (768, 12, 12, (2, 5, 8, 11))),
        ("l", (1024, 24, 16, (5, 11, 17, 23))),
        ("h", (1280, 32, 16, (7, 15, 23, 31))),
    ],
)
def test_sizes(size, expected):
    row = VIT_SIZES[size]
    assert (row.embed_dim, row.depth, row.num_heads, row.global_block_indexes) == expected
    indexes = sorted(row.global_block_indexes + row.window_block_indexes)
    assert indexes == list(range(row.depth))
    arguments = vit_arguments(size)
    assert arguments["window_block_indexes"] == list(row.window_block_indexes)
    assert arguments["embed_dim"] // arguments["num_heads"] in (64, 80)


def test_unknown_size_raises():
    with pytest.raises(ValueError, match="expected one of ti, s, b, l, h, got 'xl'"):
        vit_arguments("xl")
