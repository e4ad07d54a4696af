# SPDX-License-Identifier: Apache-2.0
"""The benchmark of pre-trained ViTs: its ten recipes, and its backbone against slow loops."""

import logging
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import OmegaConf
from torch import nn

from tests.backbones.vit_case import pixels
from tests.closed_form import fill_, tensor
from tests.layers.test_attention_bias import slow_attention, slow_windows
from tests.pretrained import key_lists
from tests.projects.test_ablation import TI, target
from vitdet_d2.backbones import ViT
from vitdet_d2.engine.recipe_json import from_json, to_json
from vitdet_d2.engine.recipes import load_recipe
from vitdet_d2.necks import MultiTapFPN
from vitdet_d2.pretrained import load
from vitdet_d2.pretrained.recognise import named_source
from vitdet_d2.zoo.initialisations import source_of

ROOT = Path(__file__).parents[2]

# Recipe -> weights, learning rate, weight decay, drop path, epochs, published box AP.
ROWS = {
    "b_random": ("random", 1.6e-4, 0.2, 0.1, 400, 48.9),
    "b_supervised": ("deit_b", 8e-5, 0.1, 0.1, 100, 47.9),
    "b_mocov3": ("mocov3_vit_b", 1.6e-4, 0.1, 0.1, 100, 47.9),
    "b_beit": ("beit_b_in1k", 8e-5, 0.1, 0.1, 100, 49.8),
    "b_mae": ("mae_vit_b", 8e-5, 0.1, 0.1, 100, 50.3),
    "l_random": ("random", 1.6e-4, 0.2, 0.3, 400, 50.7),
    "l_supervised": ("deit3_l", 8e-5, 0.1, 0.3, 100, 49.3),
    "l_mocov3": ("mocov3_vit_l.pth.tar", 1.6e-4, 0.1, 0.3, 100, 49.3),
    "l_beit": ("beit_l", 8e-5, 0.1, 0.3, 100, 53.3),
    "l_mae": ("mae_vit_l", 8e-5, 0.1, 0.3, 100, 53.3),
}


def test_every_recipe_states_its_cell():
    paths = (ROOT / "projects").glob("benchmark_*.py")
    assert {p.stem.removeprefix("benchmark_vit_") for p in paths} == set(ROWS)
    for name, row in ROWS.items():
        text = " ".join((ROOT / f"projects/benchmark_vit_{name}.py").read_text().split())
        assert re.search(rf"Published.*\b{row[-1]} box AP", text), name
        assert "Not measured here yet." in text
        can = "this cell can be reproduced" in text
        # As the reference notes have it: BEiT, MoCo v3 L and the supervised ViT-L are not public.
        assert can is (name not in ("b_beit", "l_beit", "l_mocov3", "l_supervised")), name


@pytest.mark.parametrize("name", ROWS)
def test_recipes_are_the_papers(name):
    cfg = load_recipe(f"benchmark_vit_{name}")
    weights, lr, decay, drop_path, epochs, _ = ROWS[name]
    assert cfg.train.init_checkpoint == weights
    if cfg.train.init_options.source is not None:
        assert named_source(cfg.train.init_options.source) is not None
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay) == (lr, decay)
    assert cfg.train.epochs == epochs
    assert cfg.train.warmup_epochs == 0.25
    assert cfg.train.max_iter == epochs * 184375 // 100
    assert cfg.train.clip_grad.max_norm is None
    assert cfg.optimizer.params.lr_factor_func is None
    schedule = instantiate(cfg.lr_multiplier)
    assert isinstance(schedule, ParamScheduler)
    warmup = 0.25 / epochs
    assert cfg.lr_multiplier.warmup_length == pytest.approx(warmup)
    assert schedule(warmup / 2) == pytest.approx(0.5, abs=1e-3)
    assert schedule(0.5) == pytest.approx(0.5, abs=1e-6)
    assert schedule(1.0) == pytest.approx(0.0, abs=1e-6)

    with torch.device("meta"):
        model = instantiate(cfg.model)
    net = model.backbone.net
    quarters = [2, 5, 8, 11] if name.startswith("b_") else [5, 11, 17, 23]
    assert [i for i, block in enumerate(net.blocks) if not block.window_size] == quarters
    assert list(net._stages) == quarters
    assert net.blocks[-1].drop_path.drop_prob == pytest.approx(drop_path)
    assert net.rel_pos_bias_window.shape[0] == 27**2
    assert net.rel_pos_bias_global.shape[0] == 127**2
    assert not any(block.attn.use_rel_pos for block in net.blocks)
    is_beit = name.endswith("beit")
    assert (net.layer_scale_init is not None, net.qkv_bias == "qv") == (is_beit, is_beit)
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.SyncBatchNorm)]
    assert len([n for n in norms if n.startswith("backbone.fpn_")]) == 8
    assert len([n for n in norms if n.startswith("roi_heads.box_head.")]) == 4
    assert len([n for n in norms if n.startswith("roi_heads.mask_head.")]) == 4
    assert len(norms) == 16
    assert [n for n, m in model.named_modules() if isinstance(m, nn.GroupNorm)] == [
        "backbone.bottom_up.c2.1"
    ]


@pytest.mark.filterwarnings("ignore:torch.meshgrid")  # of an installed Detectron2
@pytest.mark.parametrize("name", ["b_beit", "b_mae"])
def test_recipes_train_when_made_small_by_overrides(name):
    cfg = load_recipe(f"benchmark_vit_{name}", TI)
    text = to_json(OmegaConf.masked_copy(cfg, ["model", "data"]))
    model = instantiate(from_json(text, "recipe").model)
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)) * 255
    with EventStorage():
        losses = model([{"image": image, "instances": target()}] * 2)
    sum(losses.values()).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # At first the tables of biases are zero, and learn all the same.
    assert not [n for n in silent if "net." in n or "fpn" in n or "bottom_up" in n]


# What a file of each source holds, from the official classes at full size.
FILES = {"supervised": "deit", "mocov3": "moco", "beit": "beit_pt", "mae": "mae"}


@pytest.mark.parametrize("kind", FILES)
def test_initialisations_supply_all_that_they_can(kind):
    cfg = load_recipe(f"benchmark_vit_b_{kind}")
    with torch.device("meta"):
        net = instantiate(cfg.model.backbone.net)
    options = dict(cfg.train.init_options)
    options["source"] = source_of(cfg.train.init_checkpoint)
    if kind == "beit":
        options["absent_positions"] = "zeros"  # nothing can be drawn on the meta device
    content = {"model": key_lists.read(FILES[kind])}
    report = load(net, "weights.pth", content=content, **options)
    assert report.supplied[0] == report.supplied[1]
    assert not report.missing
    assert not report.mismatched
    new = set(report.initialised)
    if kind == "beit":
        # One table becomes both, resized; LayerScale is kept.
        resized = {name: (old, new) for name, old, new in report.resized}
        assert resized["rel_pos_bias_window"] == ((732, 12), (729, 12))
        assert resized["rel_pos_bias_global"] == ((732, 12), (16129, 12))
        assert not report.folded
        assert {"blocks.0.ls1.gamma", "blocks.11.attn.v_bias"} <= set(report.loaded)
        assert not new
    else:
        assert new == {"rel_pos_bias_window", "rel_pos_bias_global"}


def test_absent_positions_stay_at_random():
    net = ViT(
        img_size=32, embed_dim=32, depth=1, num_heads=2, rel_pos_bias="shared", qkv_bias="qv",
        layer_scale_init=0.1,
    )  # fmt: skip
    content = {name: torch.ones_like(value) for name, value in net.state_dict().items()}
    del content["pos_embed"], content["rel_pos_bias_global"]
    content["rel_pos_bias.relative_position_bias_table"] = torch.ones(732, 2)
    content["blocks.0.gamma_1"] = content.pop("blocks.0.ls1.gamma")
    content["blocks.0.gamma_2"] = content.pop("blocks.0.ls2.gamma")
    content["cls_token"] = torch.ones(1, 1, 32)
    before = net.pos_embed.detach().clone()
    assert before.any()
    report = load(net, "x.pth", content=content, source="beit", absent_positions="random")
    assert torch.equal(net.pos_embed, before)
    assert report.initialised == ("pos_embed",)
    report = load(net, "x.pth", content=content, source="beit")
    assert not net.pos_embed.any()
    assert report.zeros == ("pos_embed",)


# Two windowed and two global blocks on 4 x 6 tokens; windows of 3 tokens need padding. Tables of
# the global blocks are made for 5 x 5 tokens, or for the map as it is.
SMALL = {
    "img_size": 40,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 4,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "window_size": 3,
    "window_block_indexes": (0, 2),
    "pretrain_img_size": 32,
    "out_block_indexes": (0, 1, 2, 3),
    "rel_pos_bias": "shared",
}
STAGES = ("stage1", "stage2", "stage3", "stage4")


def make_neck(**changes):
    neck = MultiTapFPN(
        ViT(**{**SMALL, **changes}),
        STAGES,
        out_channels=8,
        norm="BN",
        resampling_norm="GN",
    )
    return fill_(neck.double())


def slow_vit(net, x, global_table):
    """Maps after every block of one image, block by block and pair by pair."""
    tokens = net.patch_embed(x[None])[0]
    grid = net.pos_embed[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    size = tokens.shape[:2]
    grid = F.interpolate(grid, size=size, mode="bicubic", align_corners=False)
    tokens = tokens + grid[0].permute(1, 2, 0)
    maps = []
    for block in net.blocks:
        normed = block.norm1(tokens)
        if block.window_size:
            mixed = slow_windows(block.attn, net.rel_pos_bias_window, normed)
        else:
            mixed = slow_attention(block.attn, global_table, tuple(size), normed)
        tokens = tokens + block.attn.proj(mixed)
        hidden = F.gelu(block.mlp.fc1(block.norm2(tokens)))
        tokens = tokens + block.mlp.fc2(hidden)
        maps.append(tokens.permute(2, 0, 1))
    return maps


def slow_batch_norm(x, weights, prefix):
    """Channel by channel, with the statistics of all images."""
    channels = []
    for c in range(x.shape[1]):
        values = x[:, c]
        centred = values - values.mean()
        scaled = centred / (centred.square().mean() + 1e-5).sqrt()
        channels.append(scaled * weights[f"{prefix}.weight"][c] + weights[f"{prefix}.bias"][c])
    return torch.stack(channels, dim=1)


def slow_pyramid(maps, weights):
    def deconvolve(x, prefix):
        """Every pixel becomes 2 x 2."""
        kernel, bias = weights[f"{prefix}.weight"], weights[f"{prefix}.bias"]
        rows = []
        for i in range(2):
            for j in range(2):
                rows.append(torch.einsum("bchw,cd->bdhw", x, kernel[:, :, i, j]))
        B, D, H, W = rows[0].shape
        out = torch.stack(rows, dim=-1).reshape(B, D, H, W, 2, 2)
        out = out.permute(0, 1, 2, 4, 3, 5).reshape(B, D, 2 * H, 2 * W)
        return out + bias[:, None, None]

    def group_norm(x, prefix):
        """32 groups of one channel each: every channel of every image for itself."""
        centred = x - x.mean((2, 3), keepdim=True)
        scaled = centred / (centred.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
        weight, bias = weights[f"{prefix}.weight"], weights[f"{prefix}.bias"]
        return scaled * weight[:, None, None] + bias[:, None, None]

    def convolve(x, prefix, padding):
        x = F.conv2d(x, weights[f"{prefix}.weight"], padding=padding)
        return slow_batch_norm(x, weights, f"{prefix}.norm")

    first = group_norm(deconvolve(maps[0], "bottom_up.c1.0"), "bottom_up.c1.1")
    first = deconvolve(F.gelu(first), "bottom_up.c1.3")
    second = deconvolve(maps[1], "bottom_up.c2.0")
    fourth = maps[3].unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).amax((3, 5))
    above, levels = None, {}
    for level, x in zip((4, 3, 2, 1), (fourth, maps[2], second, first), strict=True):
        x = convolve(x, f"fpn_lateral{level}", 0)
        if above is not None:
            x = x + above.repeat_interleave(2, 2).repeat_interleave(2, 3)
        above = x
        levels[f"p{level}"] = convolve(x, f"fpn_output{level}", 1)
    return levels


def gradients(outputs, model):
    """Of a fixed function of all outputs, by parameter."""
    total = sum((out * tensor(name, tuple(out.shape))).sum() for name, out in outputs.items())
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(total, parameters), strict=True))


def test_neck_and_shared_positions_equal_loops():
    # The map is 4 x 4 tokens, which is what the tables are for.
    neck = make_neck(img_size=32)
    x = pixels((32, 32))
    images = [slow_vit(neck.net, one, neck.net.rel_pos_bias_global) for one in x]
    maps = [torch.stack(levels) for levels in zip(*images, strict=True)]
    expected = slow_pyramid(maps, dict(neck.named_parameters()))
    actual = neck(x)
    assert list(actual) == ["p1", "p2", "p3", "p4"]
    for level, value in expected.items():
        torch.testing.assert_close(actual[level], value, msg=level)
    found = gradients(actual, neck)
    for name, wanted in gradients(expected, neck).items():
        torch.testing.assert_close(found[name], wanted, msg=name)
        assert wanted.any(), name


@pytest.mark.parametrize("hw", [(32, 32), (40, 40)])
def test_hybrid_with_windows_as_large_as_the_map_equals_full_attention(hw):
    """Strategy (3) of the paper is strategy (1) then, with equal tables."""
    side = hw[0] // 8
    full = make_neck(window_size=0, window_block_indexes=(), img_size=hw[0])
    hybrid = make_neck(window_size=side, img_size=hw[0])
    state = full.state_dict()
    state["bottom_up.net.rel_pos_bias_window"] = state["bottom_up.net.rel_pos_bias_global"]
    hybrid.load_state_dict(state)
    x = pixels((hw[0], hw[1])).float()
    full, hybrid = full.float(), hybrid.float()
    if hw[0] % 16:
        full, hybrid = full.net, hybrid.net  # the pyramid wants multiples of its coarsest stride
    first, second = full(x), hybrid(x)
    for level, value in first.items():
        assert (second[level] - value).abs().max() <= 1e-5 * max(1.0, value.abs().max()), level
    wanted = gradients(first, full)
    found = gradients(second, hybrid)
    # One table has what two have together.
    (window,) = [name for name in found if "rel_pos_bias_window" in name]
    whole = window.replace("window", "global")
    found[whole] = found[whole] + found.pop(window)
    assert found.keys() == wanted.keys()
    for name, b in wanted.items():
        a = found[name]
        assert (a - b).abs().max() <= 1e-5 * max(1.0, b.abs().max()), name


def test_windowed_taps_are_said(caplog):
    with caplog.at_level(logging.WARNING):
        make_neck()
    (record,) = caplog.records
    assert "stage1, stage3 come from blocks that attend in windows (0, 2)" in record.getMessage()
    caplog.clear()
    make_neck(window_block_indexes=())
    make_neck(window_block_indexes=(), cross_window="conv")  # convolutions join the windows
    assert not caplog.records
