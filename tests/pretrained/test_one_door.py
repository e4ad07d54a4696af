# SPDX-License-Identifier: Apache-2.0
"""Files of official classes, through `load` alone: the ViT is built without knowing the file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.pretrained import golden
from vitdet_d2.backbones import ViT
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained import load
from vitdet_d2.pretrained.options import vit_options


def build_vit(made: golden.Golden, patch: int = 16, **options: Any) -> ViT:
    """A ViT with the class row that Detectron2's recipes have, and none of the options."""
    return ViT(
        img_size=made.image.shape[-1],
        pretrain_img_size=made.image.shape[-1],
        patch_size=patch,
        embed_dim=24,
        depth=2,
        num_heads=3,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        **options,
    )


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


Write = Callable[[Path, dict[str, Tensor]], Path]
TRAINING: dict[str, Write] = {
    "model": golden.save_training_file,
    "moco": partial(golden.save_training_file, wrapper="state_dict", prefix="module."),
    "target": partial(golden.save_training_file, wrapper="target_encoder", prefix="module."),
    "dino": lambda path, state: golden.save_training_file(
        path, prefixed("backbone.", state), wrapper="teacher", dino_loss={}
    ),
}


@pytest.mark.parametrize(
    ("name", "container", "patch", "title"),
    [
        ("mae", "model", 16, "MAE"),
        ("mae_p14", "model", 14, "MAE"),
        ("mae_finetuned", "model", 16, "MAE"),
        ("moco_v3", "moco", 16, "MoCo v3"),
        ("deit", "model", 16, "a plain ViT"),
        ("deit_distilled", "model", 16, "DeiT"),
        ("deit3", "model", 16, "DeiT III"),
        ("dino", "dino", 8, "DINO"),
        ("ibot", "model", 16, "iBOT"),
        ("ibot_scaled", "model", 16, "iBOT"),
        ("msn", "target", 16, "MSN"),
        ("ijepa", "target", 14, "I-JEPA"),
    ],
)
def test_load_gives_the_official_features(
    tmp_path: Path, name: str, container: str, patch: int, title: str
):
    made = golden.load_golden(name)
    path = TRAINING[container](tmp_path / "x.pth", made.state())
    vit = build_vit(made, patch)
    report = load(vit, path)
    golden.assert_features(vit, made)
    assert report.origin == title
    # LayerScale was folded: 27 tensors are in the model either way.
    assert report.verdict == f"all that {title} supplies: 27 of 27"
    assert len(report.folded) == (4 if name in ("deit3", "ibot_scaled") else 0)


def test_google_file_in_memory_and_its_exact_gelu():
    made = golden.load_golden("google")
    vit = build_vit(made, act="gelu_tanh")
    report = load(vit, "B_16.npz", content=made.state())
    golden.assert_features(vit, made)
    assert not any("gelu" in note for note in report.notes)
    assert any("127.5" in note for note in report.notes)
    exact = load(build_vit(made), "B_16.npz", content=made.state())
    assert any("gelu_tanh" in note for note in exact.notes)


@pytest.mark.parametrize("name", ["mae_p14", "deit_distilled", "deit3", "ibot_scaled", "google"])
def test_vit_that_is_built_from_a_file_takes_all_of_it(name: str):
    made = golden.load_golden(name)
    state = {"model": made.state()} if name == "deit3" else made.state()
    vit = ViT(**{"num_heads": 3, **vit_options(state), "img_size": made.image.shape[-1]})
    report = load(vit, name, content=state)
    golden.assert_features(vit, made)
    assert report.folded == ()
    assert report.initialised == ()


def test_wrong_number_of_heads_is_refused():
    made = golden.load_golden("google")  # the only files that show it
    vit = ViT(
        img_size=48, pretrain_img_size=48, embed_dim=24, depth=2, num_heads=6,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )  # fmt: skip
    with pytest.raises(WeightsError, match=r"3 attention heads.*num_heads=3"):
        load(vit, "B_16.npz", content=made.state())


def test_moco_v3_small_is_refused_by_a_vit_with_the_heads_of_deit(tmp_path: Path):
    def small(num_heads: int) -> ViT:
        return ViT(img_size=32, pretrain_img_size=32, embed_dim=384, depth=1, num_heads=num_heads,
                   norm_layer=partial(nn.LayerNorm, eps=1e-6))  # fmt: skip

    state = {**small(12).state_dict(), "cls_token": torch.zeros(1, 1, 384)}
    path = golden.save_training_file(
        tmp_path / "x.pth.tar", prefixed("base_encoder.", state), wrapper="state_dict",
        prefix="module.",
    )  # fmt: skip
    assert load(small(12), path).origin == "MoCo v3"
    with pytest.raises(WeightsError, match=r"12 attention heads there, the model 6"):
        load(small(6), path)


def test_kernel_is_resized_once_and_never_again():
    def huge(patch: int) -> ViT:
        return ViT(img_size=2 * patch, pretrain_img_size=2 * patch, patch_size=patch,
                   embed_dim=1280, depth=1, num_heads=16,
                   norm_layer=partial(nn.LayerNorm, eps=1e-6))  # fmt: skip

    def file(patch: int) -> dict[str, Tensor]:
        with torch.device("meta"):
            return {**huge(patch).state_dict(), "cls_token": torch.empty(1, 1, 1280)}

    with torch.device("meta"):
        to_16, to_14 = huge(16), huge(14)
    report = load(to_16, "mae_pretrain_vit_huge.pth", source="mae", content=file(14))
    assert [name for name, _, _ in report.resized] == ["patch_embed.proj.weight"]
    report = load(to_16, "p14to16.pth", source="mae", content=file(16))
    assert report.resized == ()
    with pytest.raises(WeightsError, match=r"resized already.*mae_pretrain_vit_huge\.pth"):
        load(to_14, "p14to16.pth", source="mae", content=file(16))


def test_random_loads_nothing_and_says_so():
    made = golden.load_golden("mae")
    vit = build_vit(made)
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    report = load(vit, "random")
    assert report.verdict.startswith("nothing is loaded")
    assert report.loaded == ()
    assert set(report.initialised) == set(before)
    for name, value in vit.state_dict().items():
        assert torch.equal(value, before[name])
    with pytest.raises(WeightsError, match="random stands for no weights"):
        load(vit, "random", strict_heads=True)
