# SPDX-License-Identifier: Apache-2.0
"""BEiT, EVA and EVA-02 through the one door: folding, resizing, windows, and what they need."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.pretrained import key_lists
from tests.pretrained.golden import (
    TOLERANCE,
    fill,
    load_golden,
    patch_features,
    save_training_file,
)
from vitdet_d2.backbones.vit import ViT
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained import load, vit_options

NORM = partial(nn.LayerNorm, eps=1e-6)
SHARED = "rel_pos_bias.relative_position_bias_table"
PER_BLOCK = "blocks.{}.attn.relative_position_bias_table"
# No file tells EVA's heads at these small sizes.
HEADS = {"eva02_pretrained": 1}
close = partial(torch.testing.assert_close, atol=TOLERANCE, rtol=0)


def _file(folder: Path, name: str) -> Path:
    prefix = "backbone.net." if name.endswith("detector") else ""
    return save_training_file(folder / f"{name}.pth", load_golden(name).state(), prefix=prefix)


def _loaded(path: Path, name: str, **changes: Any) -> ViT:
    heads = {"num_heads": HEADS.get(name, 2)}
    vit = ViT(**{**vit_options(path), **heads, **changes})
    report = load(vit, path)
    assert report.verdict.startswith("all that")
    assert not report.missing
    assert not report.unexpected
    return vit.eval()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("beit_pretrained", {"img_size": 16}),
        ("beit_finetuned", {"img_size": 16}),
        ("beitv2_pretrained", {"img_size": 16}),
        ("beitv2_positions", {"img_size": 16}),
        ("beitv2_finetuned", {"img_size": 16}),
        # Tables and positions of 4 tokens a side, for 7.
        ("beit_resized", {"img_size": 28}),
        # One table for all blocks, cloned to each, and biases without a part for the keys.
        ("beit_pretrained", {"img_size": 16, "rel_pos_bias": "per_block", "qkv_bias": "qv"}),
        ("eva01_pretrained", {"qkv_bias": "qv"}),
        ("eva01_detector", {"img_size": 24, "window_size": 4, "window_block_indexes": (0,)}),
        ("eva02_pretrained", {}),
        ("eva02_finetuned", {}),
        ("eva02_finetuned_p14to16", {}),
        ("eva02_finetuned_small", {"qkv_bias": "qv"}),
        ("eva02_detector", {"img_size": 24, "window_size": 4, "window_block_indexes": (0,)}),
    ],
)
def test_official_features_through_the_door(name: str, changes: dict[str, Any], tmp_path: Path):
    golden = load_golden(name)
    vit = _loaded(_file(tmp_path, name), name, **changes)
    close(patch_features(vit, golden.image), golden.features)


@pytest.mark.parametrize("name", ["beit_pretrained", "beitv2_finetuned"])
def test_layer_scale_is_folded_exactly(name: str, tmp_path: Path):
    golden, path = load_golden(name), _file(tmp_path, name)
    kept = _loaded(path, name, img_size=16)
    folded = ViT(**{**vit_options(path), "img_size": 16, "layer_scale_init": None})
    report = load(folded, path)
    assert sorted(report.folded) == [f"blocks.{n}.ls{i}.gamma" for n in (0, 1) for i in (1, 2)]
    ours, theirs = patch_features(folded, golden.image), patch_features(kept, golden.image)
    assert (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()
    # The gammas of these files are no ones, and folding is asked for in vain elsewhere.
    assert not torch.equal(folded.blocks[0].attn.proj.weight, kept.blocks[0].attn.proj.weight)
    with pytest.raises(WeightsError, match=r"LayerScale \(blocks.0.ls1.gamma"):
        load(folded, path, layer_scale="keep")


def test_windows_of_the_pre_training_grid_take_the_tables_as_they_are(tmp_path: Path):
    name = "beit_finetuned"
    golden, path = load_golden(name), _file(tmp_path, name)
    vit = _loaded(path, name, img_size=32, window_size=4, window_block_indexes=(0, 1))
    for n, block in enumerate(vit.blocks):
        table = golden.state()[PER_BLOCK.format(n)]
        assert torch.equal(block.attn.relative_position_bias_table, table[:-3])
    # Each window sees the picture that the official class saw.
    tiled = golden.image.repeat(1, 1, 2, 2)
    features = patch_features(vit, tiled).unflatten(0, (2, 4, 2, 4)).movedim(1, 2)
    for window in features.flatten(0, 1):
        close(window.flatten(0, 1), golden.features)


def _wide_state(table: Tensor) -> dict[str, Tensor]:
    """Return BEiT's tensors of 14 tokens a side, width 12 and 2 blocks, with a shared table."""
    narrow = load_golden("beit_pretrained").keys
    state = {}
    for name, shape in narrow.items():
        if "relative_position" not in name:
            wide = tuple(side // 2 if side % 24 == 0 else side for side in shape)
            state[name] = fill(name, wide)
    return {**state, SHARED: table}


@pytest.mark.parametrize("kind", ["per_block", "shared"])
def test_detection_of_1024_pixels_resizes_the_tables_of_global_blocks_alone(kind: str):
    golden = load_golden("beit_table")
    table = golden.state()[SHARED]
    content = {"model": _wide_state(table)}
    options = {**vit_options(content), "rel_pos_bias": kind}
    vit = ViT(**options, img_size=256, window_size=14, window_block_indexes=(0,))
    assert options["patch_size"] == 4
    report = load(vit, "beit.pth", content=content)
    own = vit.state_dict()
    window, whole = (
        (PER_BLOCK.format(0), PER_BLOCK.format(1))
        if kind == "per_block"
        else ("rel_pos_bias_window", "rel_pos_bias_global")
    )
    assert torch.equal(own[window], table[:-3])
    # The file's rows for the class token go, and 64 tokens a side stay: 127 x 127 rows.
    assert own[whole].shape == (127 * 127, 3)
    close(own[whole][::61], golden.features)
    assert (whole, (732, 3), (127 * 127, 3)) in report.resized


def test_what_the_model_lacks_is_an_error_that_names_the_keys(tmp_path: Path):
    beit, eva = _file(tmp_path, "beit_finetuned"), _file(tmp_path, "eva02_finetuned")

    def refused(path: Path, match: str, **changes: Any) -> None:
        options = {**vit_options(path), "num_heads": 2, **changes}
        with pytest.raises(WeightsError, match=match):
            load(ViT(**options), path)

    refused(beit, r"blocks.0.attn.relative_position_bias_table.*rel_pos_bias=", rel_pos_bias=None)
    refused(beit, r"qkv_bias=True", qkv_bias=False)
    refused(beit, r"4 attention heads|2 attention heads", num_heads=4)
    refused(eva, r"interleaved rotary positions.*rope=interleaved", rope=None)
    refused(eva, r"rope=interleaved", rope="half")
    refused(eva, r"blocks.0.mlp.ffn_ln.weight.*mlp_norm=True", mlp_norm=False)
    refused(eva, r"blocks.0.mlp.w1.*mlp=swiglu", mlp="gelu", mlp_norm=False)
    refused(_file(tmp_path, "eva02_finetuned_small"), r"mlp_norm=False", mlp_norm=True)


def test_options_of_gated_perceptrons_name_no_activation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    options = vit_options(_file(tmp_path, "eva02_finetuned"))
    assert options["act"] is None
    ViT(**options, num_heads=2)
    assert "has no effect" not in caplog.text


def test_patches_of_14_are_resized_and_those_of_16_stay(tmp_path: Path):
    golden = load_golden("eva02_finetuned")
    path = _file(tmp_path, "eva02_finetuned")
    options = {**vit_options(path), "num_heads": 2, "patch_size": 16, "pretrain_img_size": 64}
    vit = ViT(**options)
    report = load(vit, path)
    kernel = "patch_embed.proj.weight"
    assert (kernel, (24, 3, 14, 14), (24, 3, 16, 16)) in report.resized
    # The same picture, larger: each patch gives what it gave.
    larger = nn.functional.interpolate(golden.image, (64, 64), mode="bilinear")
    flat = golden.state()[kernel]
    small = nn.functional.conv2d(golden.image, flat, golden.state()["patch_embed.proj.bias"], 14)
    error = vit.patch_embed(larger).movedim(-1, 1) - small
    assert error.norm() < 0.2 * small.norm()
    # A file that was resized before is not resized again.
    name = "eva02_finetuned_p14to16"
    path = _file(tmp_path, name)
    vit = _loaded(path, name)
    assert torch.equal(vit.state_dict()[kernel], load_golden(name).state()[kernel])
    vit = ViT(**{**vit_options(path), "num_heads": 2, "patch_size": 14, "pretrain_img_size": 56})
    with pytest.raises(WeightsError, match="resized already"):
        load(vit, path)


@pytest.mark.parametrize(
    ("name", "source"), [("beit_pt", "beit"), ("beit_pt2", None), ("beit_ft", "beit_v2")]
)
def test_full_size_files_give_a_detection_backbone_all_that_they_have(
    name: str, source: str | None
):
    with torch.device("meta"):
        vit = ViT(
            img_size=1024,
            norm_layer=NORM,
            use_abs_pos=False,
            rel_pos_bias="per_block",
            layer_scale_init=0.1,
            window_size=14,
            window_block_indexes=(0, 1, 3, 4, 6, 7, 9, 10),
        )
    report = load(vit, f"{name}.pth", source=source, content={"model": key_lists.read(name)})
    total = len(vit.state_dict())
    assert report.verdict.endswith(f"supplies: {total} of {total}")
    assert total == 182
    # The eight windowed blocks lose the class token's rows, the others are resized.
    shapes = sorted({new for _, _, new in report.resized})
    assert shapes == [(27 * 27, 12), (127 * 127, 12)]


def test_eva02_at_full_size():
    with torch.device("meta"):
        vit = ViT(
            img_size=1024,
            norm_layer=NORM,
            mlp_ratio=8 / 3,
            mlp="swiglu",
            mlp_norm=True,
            rope="interleaved",
            window_size=16,
            window_block_indexes=(0, 1, 3, 4, 6, 7, 9, 10),
        )
    report = load(vit, "eva02_B_pt_in21k_p14.pt", content={"model": key_lists.read("eva02")})
    total = len(vit.state_dict())
    assert report.verdict == f"all that EVA-02 supplies: {total} of {total}"
    assert {new for _, _, new in report.resized} == {(768, 3, 16, 16), (1, 197, 768)}
