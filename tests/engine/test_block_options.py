# SPDX-License-Identifier: Apache-2.0
"""Freezing, recomputing and compiling blocks of a backbone, whatever is around it."""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from detectron2.config import LazyCall
from detectron2.engine import HookBase
from detectron2.solver.build import get_default_optimizer_params
from omegaconf import OmegaConf
from torch import Tensor, nn

from vitdet_d2.backbones import ViT
from vitdet_d2.engine.block_options import (
    checkpoint_activations,
    compile_blocks,
    freeze_blocks,
    require_compiler,
)
from vitdet_d2.engine.build import apply_block_options, build_optimizer
from vitdet_d2.engine.hooks.freeze import FrozenHook
from vitdet_d2.engine.settings import read_settings
from vitdet_d2.engine.trainer import Trainer
from vitdet_d2.errors import RecipeError
from vitdet_d2.layers.recompute import Recompute
from vitdet_d2.necks import SimpleFeaturePyramid

CPU = torch.device("cpu")
DEPTH = 4


class Detector(nn.Module):
    """A pyramid on a ViT, with one loss."""

    def __init__(self, drop_path_rate: float = 0.5, depth: int = DEPTH, **options: Any) -> None:
        super().__init__()
        net = ViT(
            img_size=32,
            patch_size=8,
            embed_dim=16,
            depth=depth,
            num_heads=2,
            drop_path_rate=drop_path_rate,
            use_rel_pos=True,
            window_size=2,
            window_block_indexes=[0, 2],
            pretrain_img_size=32,
            out_feature="last",
            **options,
        )
        self.backbone = SimpleFeaturePyramid(net, "last", 8, (1.0, 0.5))

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        maps = self.backbone(torch.stack([sample["image"] for sample in batch]))
        return {"loss": sum(m.square().mean() for m in maps.values())}


def detector(**options: Any) -> Detector:
    torch.manual_seed(0)
    return Detector(**options)


def batch() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    return [{"image": torch.rand(3, 32, 32, generator=generator)} for _ in range(4)]


def batches() -> Iterator[list[dict[str, Any]]]:
    while True:
        yield batch()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(2)
    model.zero_grad()
    model(batch())["loss"].backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    node = LazyCall(torch.optim.AdamW)(
        params=LazyCall(get_default_optimizer_params)(base_lr=0.01), lr=0.01, weight_decay=0.5
    )
    return build_optimizer(OmegaConf.create({"optimizer": node}), model)


def is_frozen(name: str, count: int) -> bool:
    inside = [f"blocks.{i}." for i in range(count)]
    return any(part in name for part in ("pos_embed", "patch_embed", *inside))


@pytest.mark.parametrize("count", [1, 3, DEPTH])
def test_frozen_blocks_stay_as_they_are_and_the_rest_learns(count: int) -> None:
    model = detector()
    frozen = freeze_blocks(model, count)
    before = copy.deepcopy(model.state_dict())
    optimizer = optimizer_of(model)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    trainer = Trainer(model, batches(), optimizer)
    trainer.register_hooks([FrozenHook(frozen)])
    trainer.train(0, 3)
    for name, parameter in model.named_parameters():
        assert (id(parameter) in trained) != is_frozen(name, count), name
        assert torch.equal(parameter, before[name]) == is_frozen(name, count), name
        assert (parameter.grad is None) == is_frozen(name, count), name


def test_frozen_blocks_are_in_evaluation_mode_at_every_step() -> None:
    """Drop path off: they give the same features in each step, as in evaluation."""
    model = detector(drop_path_rate=0.9)
    net = model.backbone.net
    frozen = freeze_blocks(model, 3)
    seen: list[Tensor] = []
    net.blocks[2].register_forward_hook(lambda module, inputs, output: seen.append(output))

    class Evaluate(HookBase):
        def after_step(self) -> None:
            model.eval()
            model.train()

    trainer = Trainer(model, batches(), optimizer_of(model))
    trainer.register_hooks([FrozenHook(frozen), Evaluate()])
    trainer.train(0, 2)
    assert net.blocks[3].training
    model.eval()
    with torch.no_grad():
        model(batch())
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[2])


def test_what_blocks_share_is_frozen_with_the_embeddings() -> None:
    model = detector(pre_norm=True, layer_scale_init=0.1, rel_pos_bias="shared")
    frozen = freeze_blocks(model, 1)
    net = model.backbone.net
    assert net.norm_pre in frozen
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"blocks"}
    assert not any(name.startswith("blocks.0.") for name in trained)
    assert "blocks.1.ls1.gamma" in trained


def test_more_blocks_than_there_are() -> None:
    with pytest.raises(
        RecipeError, match=r"freeze_blocks=5: the backbone has 4 blocks; give at most 4"
    ):
        freeze_blocks(detector(), DEPTH + 1)


@pytest.mark.parametrize("option", ["freeze_blocks", "activation_checkpointing", "compile"])
def test_options_are_for_models_with_one_vit(option: str) -> None:
    value = 1 if option == "freeze_blocks" else True
    settings = read_settings(OmegaConf.create({"train": {option: value}}))
    for model, found in ((nn.Linear(1, 1), "none"), (nn.ModuleList([detector(), detector()]), "2")):
        with pytest.raises(RecipeError, match=rf"train\.{option} is for .* this model has {found}"):
            apply_block_options(model, settings, CPU)


def test_frozen_random_blocks_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    for weights, warned in (("", True), ("mae.pth", False)):
        train = {"freeze_blocks": 1, "init_checkpoint": weights}
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            apply_block_options(detector(), read_settings(OmegaConf.create({"train": train})), CPU)
        assert ("keep random weights" in caplog.text) == warned


class UpstreamViT(nn.Module):
    """The attributes of Detectron2's ViT, which cannot recompute by itself."""

    def __init__(self, vit: ViT) -> None:
        super().__init__()
        self.patch_embed, self.pos_embed, self.blocks = vit.patch_embed, vit.pos_embed, vit.blocks

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        x = self.patch_embed(torch.stack([sample["image"] for sample in batch]))
        for block in self.blocks:
            x = block(x)
        return {"loss": x.square().mean()}


class OwnViT(nn.Module):
    """Our ViT with the same loss."""

    def __init__(self, vit: ViT) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        maps = self.vit(torch.stack([sample["image"] for sample in batch]))
        return {"loss": maps["last"].square().mean()}


@pytest.mark.parametrize("how", [True, "selective"])
@pytest.mark.parametrize("upstream", [False, True])
def test_recomputed_blocks_give_the_same_gradients(upstream: bool, how: Recompute) -> None:
    """To the bit, drop path included, with maps inside blocks not kept."""
    model: nn.Module = detector()
    if upstream:
        model = UpstreamViT(model.backbone.net)
    names = list(model.state_dict())
    calls: list[int] = []
    block = next(m for n, m in model.named_modules() if n.endswith("blocks.3.mlp"))
    block.register_forward_hook(lambda module, inputs, output: calls.append(1))
    plain = gradients(model)
    assert len(calls) == 1
    checkpoint_activations(model, how)
    recomputed = gradients(model)
    assert len(calls) == 3  # once more for the loss, and again for the gradient
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)
    assert list(model.state_dict()) == names
    with torch.no_grad():
        model(batch())
    assert len(calls) == 4


def test_recomputing_changes_no_generator() -> None:
    states = []
    for recompute in (False, True):
        model = detector()
        if recompute:
            checkpoint_activations(model)
        gradients(model)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on the CPU")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_compiled_blocks_agree_and_keep_their_names() -> None:
    """Recomputed as well: compiling one block takes a minute, and both belong together."""
    model = detector(drop_path_rate=0.0, depth=1)
    names = list(model.state_dict())
    plain = gradients(model)
    compile_blocks(model, CPU)
    checkpoint_activations(model)
    compiled = gradients(model)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert list(model.state_dict()) == names
    for name, gradient in plain.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-3, atol=1e-6)


@pytest.fixture
def memory_budget() -> Iterator[None]:
    """Give back what selective recomputation sets for the whole process."""
    with torch._functorch.config.patch(activation_memory_budget=1.0):
        yield


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on the CPU")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("upstream", "how"), [(False, True), (True, True), (False, "selective")])
@pytest.mark.usefixtures("memory_budget")
def test_compiled_and_recomputed_blocks_drop_the_same_paths_twice(
    upstream: bool, how: Recompute
) -> None:
    """Their gradient is the slope of their loss, for the same seed, along a random direction."""
    net = detector(drop_path_rate=0.5, depth=2).backbone.net
    model = UpstreamViT(net) if upstream else OwnViT(net)
    train = {"compile": True, "activation_checkpointing": how}
    apply_block_options(model, read_settings(OmegaConf.create({"train": train})), CPU)
    weight = net.blocks[0].mlp.fc1.weight
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    gradients(model)
    expected = float((weight.grad * direction).sum())
    step, losses = 1e-2, []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(direction, alpha=sign * step)
        torch.manual_seed(2)  # as `gradients` does
        losses.append(model(batch())["loss"].item())
        with torch.no_grad():
            weight.sub_(direction, alpha=sign * step)
    assert abs(expected) > 1e-3
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(expected, rel=2e-2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_missing_compiler_is_an_error_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("g++: not found")

    monkeypatch.setattr(torch, "compile", lambda function: fail)
    with pytest.raises(RecipeError, match=r"for cpu here \(g\+\+: not found\); .*compile=false"):
        require_compiler(CPU)
