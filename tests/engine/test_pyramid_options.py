# SPDX-License-Identifier: Apache-2.0
"""Freezing, recomputing and compiling blocks of a backbone with stages."""

from __future__ import annotations

import shutil

import pytest
import torch
from detectron2.modeling.backbone import FPN
from omegaconf import OmegaConf
from torch import Tensor, nn

from tests.backbones.pyramid_case import NAMES, TINY, images, make
from tests.backbones.timm_case import SWIN
from vitdet_d2.backbones import PVT, TimmBackbone
from vitdet_d2.engine.block_options import checkpoint_activations, compile_blocks, freeze_blocks
from vitdet_d2.engine.build import apply_block_options
from vitdet_d2.engine.settings import read_settings
from vitdet_d2.errors import RecipeError

CPU = torch.device("cpu")
# Blocks of TINY by number, over all stages.
BLOCKS = ["block1.0", "block2.0", "block2.1", "block3.0", "block3.1", "block4.0"]
EMBEDDINGS = ["patch_embed{}.", "pos_embed{}"]


def pyramid(name: str, drop_path_rate: float = 0.5) -> FPN:
    torch.manual_seed(0)
    net = make(name, drop_path_rate=drop_path_rate)
    fpn = FPN(net, ["res2", "res3", "res4", "res5"], 8)
    return fpn.double().train()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(2)
    model.zero_grad()
    sum(m.square().mean() for m in model(images(64, 64)).values()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_frozen_blocks_and_what_stands_before_them(name: str, count: int) -> None:
    model = pyramid(name)
    frozen = freeze_blocks(model, count)
    stages = {int(block[5]) for block in BLOCKS[:count]}
    inside = [f"{block}." for block in BLOCKS[:count]]
    inside += [part.format(stage) for stage in stages for part in EMBEDDINGS]
    inside += [f"norm{stage - 1}." for stage in stages]
    grads = gradients(model)
    for full_name, parameter in model.bottom_up.named_parameters():
        expected = full_name.startswith(tuple(inside))
        assert parameter.requires_grad != expected, full_name
        assert (f"bottom_up.{full_name}" in grads) != expected, full_name
    assert [m for m in frozen if m in list(model.bottom_up.block1)] == list(model.bottom_up.block1)
    assert not any(
        parameter.requires_grad for module in frozen for parameter in module.parameters()
    )


def test_more_blocks_than_there_are() -> None:
    with pytest.raises(RecipeError, match=r"freeze_blocks=7: .* has 6 blocks; give at most 6"):
        freeze_blocks(pyramid("pvt"), 7)


@pytest.mark.parametrize("name", NAMES)
def test_recomputed_blocks_give_the_same_gradients(name: str) -> None:
    model = pyramid(name)
    names = list(model.state_dict())
    plain = gradients(model)
    calls: list[int] = []
    model.bottom_up.block3[1].mlp.register_forward_hook(lambda *_: calls.append(1))
    checkpoint_activations(model)
    recomputed = gradients(model)
    assert len(calls) == 2
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(plain[key], recomputed[key]) for key in plain)
    assert list(model.state_dict()) == names


def test_options_go_together_with_frozen_stages() -> None:
    model = FPN(make("pvt", frozen_stages=1), ["res2", "res3", "res4", "res5"], 8).double().train()
    train = {"freeze_blocks": 2, "activation_checkpointing": True}
    apply_block_options(model, read_settings(OmegaConf.create({"train": train})), CPU)
    trained = {
        name.split(".")[1] for name in gradients(model) if name.startswith("bottom_up.block")
    }
    assert trained == {"block2", "block3", "block4"}


def test_two_backbones_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"one plain ViT .*, PVT or MiT; this model has 2"):
        checkpoint_activations(nn.ModuleList([pyramid("pvt"), pyramid("mit")]))


def test_models_of_timm_recompute_by_themselves_and_have_no_blocks_to_freeze() -> None:
    net = TimmBackbone(SWIN)
    model = FPN(net, list(net.output_shape()), 8).double().train()
    plain = gradients(model)
    apply_block_options(
        model, read_settings(OmegaConf.create({"train": {"activation_checkpointing": True}})), CPU
    )
    assert net.use_act_checkpoint
    recomputed = gradients(model)
    assert all(torch.equal(plain[key], recomputed[key]) for key in plain)
    with pytest.raises(RecipeError, match=r"this model has none; .*\(a model of timm .*frozen_sta"):
        freeze_blocks(model, 1)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on the CPU")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_compiled_blocks_agree_and_keep_their_names() -> None:
    torch.manual_seed(0)
    net = PVT(**{**TINY, "depths": (1, 1, 1, 1)}, out_features=("res2",), pretrain_img_size=64)
    names = list(net.state_dict())
    x = images(64, 64).float()
    results = []
    for compiled in (False, True):
        if compiled:
            compile_blocks(net, CPU)
            checkpoint_activations(net)
        net.zero_grad()
        net(x)["res2"].square().sum().backward()
        results.append([p.grad for p in net.parameters()])
    assert list(net.state_dict()) == names
    for plain, other in zip(*results, strict=True):
        torch.testing.assert_close(other, plain, rtol=1e-3, atol=1e-4)
