# SPDX-License-Identifier: Apache-2.0
"""Files of transformers' models, through the one door, compute what those models compute."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.pretrained.golden import TOLERANCE, fill_model, patch_features
from tests.pretrained.sources import hugging_face_models as models
from tests.pretrained.sources.hugging_face_models import (
    CASES,
    DEPTH,
    HEADS,
    IMAGE,
    PATCH,
    SIDE,
    WIDTH,
)
from vitdet_d2.backbones.vit import ViT
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained import load, read_weights
from vitdet_d2.pretrained.container import unwrap
from vitdet_d2.pretrained.normalisation import IMAGENET
from vitdet_d2.pretrained.recognise import encoder_of, named_source

GRID = (SIDE // PATCH) ** 2


@cache
def model_of(name: str) -> Any:
    return CASES[name].make()


@cache
def oracle_of(name: str) -> Tensor:
    """Of a model of its own: some oracles take modules off."""
    return models.patch_features(CASES[name], CASES[name].make())


def build_vit(name: str, **arguments: Any) -> ViT:
    eps = 1e-5 if name.startswith(("clip", "dinov3")) else 1e-6
    sizes: dict[str, Any] = {
        "img_size": SIDE, "pretrain_img_size": SIDE, "embed_dim": WIDTH, "depth": DEPTH,
        "num_heads": HEADS, "mlp_ratio": 2, "norm_layer": partial(nn.LayerNorm, eps=eps),
    }  # fmt: skip
    torch.manual_seed(0)
    return ViT(**{**sizes, **CASES[name].vit, **arguments})


def on_disk(name: str, folder: Path) -> Path:
    model_of(name).save_pretrained(folder)
    return folder / "model.safetensors"


def as_bin(name: str, folder: Path) -> Path:
    path = folder / "pytorch_model.bin"
    torch.save(load_file(on_disk(name, folder)), path)
    return path


def in_memory(name: str, folder: Path) -> Path:
    path = folder / "weights.pth"
    torch.save(model_of(name).state_dict(), path)
    return path


def assert_same_features(name: str, vit: ViT) -> None:
    torch.testing.assert_close(patch_features(vit, IMAGE), oracle_of(name), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("write", [on_disk, as_bin, in_memory])
def test_patch_features_are_those_of_transformers(
    name: str, write: Callable[[str, Path], Path], tmp_path: Path
) -> None:
    vit = build_vit(name)
    report = load(vit, write(name, tmp_path))
    assert report.origin == named_source(CASES[name].source).title
    assert not report.missing
    assert not report.unexpected
    assert_same_features(name, vit)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.final])
@torch.no_grad()
def test_whole_models_are_equal_with_their_prefix_tokens(name: str, tmp_path: Path) -> None:
    """All tokens as a map of one row, against the model's own forward pass with its last norm."""
    vit, case = build_vit(name).eval(), CASES[name]
    load(vit, on_disk(name, tmp_path))
    encoder = case.encoder(model_of(name))
    tokens = encoder.embeddings(IMAGE)
    for block in vit.blocks:
        tokens = block(tokens[:, None])[:, 0]
    wanted = encoder(IMAGE).last_hidden_state
    norm = encoder.get_submodule(case.final)
    torch.testing.assert_close(norm(tokens), wanted, atol=TOLERANCE, rtol=0)
    if tokens.shape[1] > GRID:
        # Otherwise the other comparison could stand for this one.
        assert (tokens[0, -GRID:] - patch_features(vit, IMAGE)).abs().max() > 100 * TOLERANCE


@torch.no_grad()
def test_clip_is_equal_with_its_class_token(tmp_path: Path) -> None:
    vit, encoder = build_vit("clip_vision").eval(), model_of("clip_vision")
    load(vit, on_disk("clip_vision", tmp_path))
    tokens = vit.norm_pre(encoder.embeddings(IMAGE))
    for block in vit.blocks:
        tokens = block(tokens[:, None])[:, 0]
    wanted = encoder(IMAGE).last_hidden_state
    torch.testing.assert_close(tokens, wanted, atol=TOLERANCE, rtol=0)
    # CLIP's patches have no bias: zero, not what the model was made with.
    assert not vit.patch_embed.proj.bias.any()


@pytest.mark.parametrize("name", ["sam", "vitdet"])
def test_detectors_of_transformers_are_renamed_bit_by_bit(name: str, tmp_path: Path) -> None:
    vit, case = build_vit(name), CASES[name]
    load(vit, on_disk(name, tmp_path))
    theirs = {n: v for n, v in case.encoder(model_of(name)).state_dict().items() if "neck" not in n}
    ours = vit.state_dict()
    assert len(ours) == len(theirs)
    assert _bytes_of(ours) == _bytes_of(theirs)


def _bytes_of(state: dict[str, Tensor]) -> set[bytes]:
    return {value.contiguous().numpy().tobytes() for value in state.values()}


@pytest.mark.parametrize("name", ["beit_shared", "dinov2", "dinov2_gated", "dinov3"])
def test_layer_scale_is_folded_where_the_model_has_none(name: str, tmp_path: Path) -> None:
    vit = build_vit(name, layer_scale_init=None)
    report = load(vit, on_disk(name, tmp_path))
    assert len(report.folded) == 2 * DEPTH
    assert_same_features(name, vit)


def test_keys_of_beit_have_no_bias(tmp_path: Path) -> None:
    vit = build_vit("beit_shared")
    load(vit, on_disk("beit_shared", tmp_path))
    for block in vit.blocks:
        query, key, value = block.attn.qkv.bias.chunk(3)
        assert not key.any()
        assert query.all()
        assert value.all()
    vit = build_vit("beit_shared", qkv_bias="qv")
    load(vit, tmp_path / "model.safetensors")
    assert_same_features("beit_shared", vit)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("clip_vision", {"pre_norm": False}, r"norm before the blocks.*norm_pre.*pre_norm=True"),
        ("clip_vision", {"act": "gelu"}, r"quick_gelu.*act=quick_gelu"),
        ("dinov3", {"rope": None}, r"half rotary positions.*rope=half"),
        ("dinov2_gated", {"mlp": "gelu"}, r"gated.*blocks\.0\.mlp\.w1.*mlp=swiglu"),
        (
            "beit_per_layer",
            {"rel_pos_bias": None},
            r"relative positions.*rel_pos_bias=per_block",
        ),
        ("beit_shared", {"rel_pos_bias": None}, r"relative positions.*rel_pos_bias=shared"),
        ("sam", {"use_rel_pos": False}, r"relative positions.*use_rel_pos=True"),
    ],
)
def test_what_the_model_lacks_is_named(
    name: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = on_disk(name, tmp_path)
    with pytest.raises(WeightsError, match=message):
        load(build_vit(name, **change), path)


def test_configurations_with_an_epsilon_of_1e_12(tmp_path: Path) -> None:
    """Theirs for ViT, where official code has 1e-6: exact with theirs, near with ours."""
    model = transformers.ViTModel(transformers.ViTConfig(**models.PLAIN_SIZE)).eval()
    assert model.config.layer_norm_eps == 1e-12
    fill_model(model)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        wanted = CASES["vit"].patches_only(model, IMAGE)[0]
    for eps in (1e-12, 1e-6):
        vit = build_vit("vit", norm_layer=partial(nn.LayerNorm, eps=eps))
        load(vit, tmp_path / "model.safetensors")
        torch.testing.assert_close(patch_features(vit, IMAGE), wanted, atol=TOLERANCE, rtol=0)


def test_names_of_older_versions_are_dropped(tmp_path: Path) -> None:
    older = {
        "vit_mae_pretraining": {"decoder.decoder_layers.0.intermediate.dense.bias": (16,)},
        "beit_per_layer": {
            f"beit.encoder.layer.{n}.attention.attention.relative_position_bias."
            "relative_position_index": (17, 17)
            for n in range(DEPTH)
        },
        "clip_projection": {"vision_model.embeddings.position_ids": (1, 17)},
    }
    for name, more in older.items():
        state = load_file(on_disk(name, tmp_path / name))
        state |= {key: torch.zeros(shape) for key, shape in more.items()}
        save_file(state, tmp_path / "older.safetensors")
        vit = build_vit(name)
        report = load(vit, tmp_path / "older.safetensors")
        kept = {key.removeprefix("beit.").removeprefix("vision_model.") for key in more}
        assert kept <= set(report.dropped)
        assert_same_features(name, vit)


@pytest.mark.parametrize("name", ["vit_classifier", "dinov3", "clip_projection", "vitdet"])
def test_unknown_keys_are_errors(name: str, tmp_path: Path) -> None:
    state = load_file(on_disk(name, tmp_path))
    state["adapter.weight"] = torch.ones(1)
    save_file(state, tmp_path / "more.safetensors")
    with pytest.raises(WeightsError, match=r"no such keys: adapter\.weight"):
        load(build_vit(name), tmp_path / "more.safetensors")


def test_sources_that_keys_cannot_tell_may_be_named(tmp_path: Path) -> None:
    path = on_disk("vit_mae", tmp_path / "mae")
    content = read_weights(path)
    file = unwrap("the file", content)
    assert encoder_of("the file", file).normalisation is None
    named = encoder_of("the file", file, "hugging_face_vit_mae")
    assert named.normalisation == IMAGENET
    assert encoder_of("the file", file, "mae").normalisation == IMAGENET
    path = on_disk("clip_vision", tmp_path / "clip")
    vit = build_vit("clip_vision", act="gelu")
    load(vit, path, source="hugging_face_openclip")
    with pytest.raises(WeightsError, match="of Hugging Face"):
        load(vit, path, source="hugging_face_dinov2")


def test_normalisation_travels_with_the_file(tmp_path: Path) -> None:
    expected = {"beit_shared": "0.5", "clip_vision": "CLIP", "deit_distilled": "ImageNet"}
    for name, normalisation in expected.items():
        content = read_weights(on_disk(name, tmp_path / name))
        found = encoder_of("the file", unwrap("the file", content)).normalisation
        assert found is not None
        assert found.name == normalisation
