# SPDX-License-Identifier: Apache-2.0
"""DINOv2, DINOv3, SAM, CLIP and OpenCLIP from their files, through the one door."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.pretrained.golden import TOLERANCE, assert_features, load_golden, patch_features
from vitdet_d2.backbones.vit import ViT
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained import load, vit_options

# The container that each source's files have.
CONTAINERS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "dinov2": lambda state: state,
    "dinov2_chunks": lambda state: {"teacher": {f"backbone.{k}": v for k, v in state.items()}},
    "dinov2_giant": lambda state: state,
    "dinov2_registers": lambda state: state,
    "dinov3": lambda state: state,
    "dinov3_plus": lambda state: state,
    "dinov3_7b": lambda state: {"teacher": {f"backbone.{k}": v for k, v in state.items()}},
    "sam": lambda state: state,
    "openclip": lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
}


def _file(name: str, folder: Path) -> str:
    path = folder / f"{name}.pth"
    torch.save(CONTAINERS[name](load_golden(name).state()), path)
    return str(path)


def _vit(path: str, name: str, **changes: Any) -> ViT:
    options = {**vit_options(path), "num_heads": 2, **changes}
    if name == "sam":
        options |= {"img_size": 80, "window_size": 2, "window_block_indexes": [0, 2]}
    return ViT(**options)


@pytest.mark.parametrize("name", list(CONTAINERS))
def test_files_give_the_features_of_official_classes(name: str, tmp_path: Path):
    path = _file(name, tmp_path)
    vit = _vit(path, name)
    report = load(vit, path)
    assert not report.missing
    assert not report.mismatched
    assert_features(vit, load_golden(name))


def _archive(state: dict[str, Tensor], path: Path) -> None:
    """Write a TorchScript archive, as OpenAI's files are."""
    root = nn.Module()
    for name, value in state.items():
        *parents, last = name.split(".")
        module = root
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, nn.Module())
            module = module._modules[parent]
        if value.is_floating_point():
            module.register_parameter(last, nn.Parameter(value, requires_grad=False))
        else:
            module.register_buffer(last, value)
    torch.jit.script(root).save(str(path))


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_archives_of_openai_give_the_features_of_clip(tmp_path: Path):
    golden = load_golden("clip")
    path = tmp_path / "ViT-B-16.pt"
    kept = ("embedding", "ln_", "logit_scale")  # all else is in half precision
    state = {
        key: value if any(word in key for word in kept) else value.half()
        for key, value in golden.state().items()
    }
    sizes = {"input_resolution": 48, "context_length": 5, "vocab_size": 11}
    _archive({**state, **{key: torch.tensor(size) for key, size in sizes.items()}}, path)
    options = vit_options(str(path))
    assert (options["act"], options["pre_norm"]) == ("quick_gelu", True)
    vit = ViT(**{**options, "num_heads": 2})
    report = load(vit, str(path))
    assert not report.missing
    assert all(value.dtype == torch.float32 for value in vit.parameters())
    assert_features(vit, golden)


@pytest.mark.parametrize("name", ["dinov2", "dinov2_giant", "dinov3", "openclip"])
def test_folded_layer_scale_gives_the_same_features(name: str, tmp_path: Path):
    path = _file(name, tmp_path)
    vit = _vit(path, name, layer_scale_init=None)
    load(vit, path)
    assert not any("gamma" in key for key in vit.state_dict())
    assert_features(vit, load_golden(name))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dinov3", {"rope": None}, "rope=half"),
        ("dinov3_plus", {"mlp": "gelu"}, r"gated perceptrons.*mlp=swiglu"),
        ("openclip", {"pre_norm": False}, r"norm_pre.*pre_norm=True"),
        ("openclip", {"act": "quick_gelu"}, "act=gelu"),
        ("sam", {"use_rel_pos": False}, r"rel_pos_h.*use_rel_pos=True"),
        ("dinov2", {"use_abs_pos": False}, r"pos_embed.*use_abs_pos=True"),
    ],
)
def test_what_the_model_lacks_is_named(
    name: str, change: dict[str, Any], message: str, tmp_path: Path
):
    path = _file(name, tmp_path)
    with pytest.raises(WeightsError, match=message):
        load(_vit(path, name, **change), path)


def test_unknown_keys_are_named(tmp_path: Path):
    path = tmp_path / "dinov2.pth"
    state = load_golden("dinov2").state()
    torch.save({**state, "blocks.0.attn.q_norm.weight": torch.ones(16)}, path)
    with pytest.raises(WeightsError, match=r"no such keys: blocks\.0\.attn\.q_norm\.weight"):
        vit_options(str(path))


def test_eps_of_dinov3_is_the_models_or_said(tmp_path: Path):
    path = _file("dinov3", tmp_path)
    vit = _vit(path, "dinov3")
    assert vit.blocks[0].norm1.eps == 1e-5
    other = _vit(path, "dinov3", norm_layer=lambda width: nn.LayerNorm(width, eps=1e-3))
    report = load(other, path)
    assert any("eps=1e-05" in line for line in report.lines())
    far = patch_features(other, load_golden("dinov3").image) - load_golden("dinov3").features
    assert far.abs().max() > TOLERANCE
