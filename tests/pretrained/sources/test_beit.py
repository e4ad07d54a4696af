# SPDX-License-Identifier: Apache-2.0
"""BEiT and BEiT v2, against features of their official classes, and against timm's model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.models.beit import Beit
from torch import Tensor, nn

from tests.pretrained import key_lists
from tests.pretrained.encoder_vit import read_encoder, vit_of
from tests.pretrained.golden import (
    TOLERANCE,
    fill_model,
    image,
    load_golden,
    patch_features,
    prefix_features,
    save_training_file,
)
from tests.pretrained.sources.attention import full_bias, run_block
from vitdet_d2.backbones.vit import ViT
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.encoder import Encoder
from vitdet_d2.pretrained.normalisation import HALF, IMAGENET
from vitdet_d2.pretrained.reader import read_weights

SHARED = "rel_pos_bias.relative_position_bias_table"
PER_BLOCK = "blocks.{}.attn.relative_position_bias_table"
GRID = 4
EXACT = ("beit_pretrained", "beit_finetuned", "beitv2_pretrained", "beitv2_finetuned")
close = partial(torch.testing.assert_close, atol=TOLERANCE, rtol=0)


def _vit(encoder: Encoder, grid: int = GRID, **changes: Any) -> ViT:
    """Build the ViT of a file's own grid, without the tables' rows for the class token."""
    names = dict(encoder.tensors)
    kind = "shared" if SHARED in names else "per_block"
    for name in [name for name in names if name.endswith("relative_position_bias_table")]:
        table = names.pop(name)[:-3]
        names["rel_pos_bias_global" if name == SHARED else name] = table
    plain = Encoder(**{**vars(encoder), "tensors": names})
    size = {"img_size": grid * encoder.patch_size, "rel_pos_bias": kind}
    return vit_of(plain, **{"num_heads": encoder.num_heads, **size, **changes})


def _table(state: dict[str, Tensor], block: int) -> Tensor:
    return state.get(PER_BLOCK.format(block), state.get(SHARED))


def _with_biases(vit: ViT, biases: list[Tensor]) -> Callable[[nn.Module, Tensor], Tensor]:
    """Return a block's computation on ``(1, 1, 1 + N, C)``, written out, with given biases."""
    order = dict(zip(vit.blocks, biases, strict=True))

    def run(block: nn.Module, x: Tensor) -> Tensor:
        return run_block(block, x, order[block], None)

    return run


def _distance(vit: nn.Module, name: str) -> float:
    golden = load_golden(name)
    return float((patch_features(vit, golden.image) - golden.features).abs().max())


def _file(path: Path, name: str, state: dict[str, Tensor]) -> Path:
    """Write an official file: of a release, of DeepSpeed, of training, or below ``encoder.``."""
    ema = {"model_ema": {key: torch.zeros(1) for key in state}}
    if name == "beitv2_positions":
        return save_training_file(path, state, prefix="encoder.")
    wrapper = "module" if name in ("beit_finetuned", "beitv2_pretrained") else "model"
    return save_training_file(path, state, wrapper=wrapper, **ema)


@pytest.mark.parametrize("name", [*EXACT, "beitv2_positions"])
def test_matches_official_class(name: str, tmp_path: Path):
    golden = load_golden(name)
    state = golden.state()
    encoder = read_encoder(read_weights(_file(tmp_path / "beit.pth", name, state)))
    # Of the tables, which show it.
    assert encoder.num_heads == 2
    assert encoder.needs.eps == 1e-6
    vit = _vit(encoder)
    close(patch_features(vit, golden.image), golden.features)
    prefix = state["cls_token"][0] + state.get("pos_embed", torch.zeros(1, 1, 24))[0, :1]
    biases = [full_bias(_table(state, n), GRID) for n in range(2)]
    both = prefix_features(vit, golden.image, prefix, _with_biases(vit, biases))
    close(both, golden.with_prefix)
    assert (both[1:] - golden.features).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("name", EXACT)
def test_features_are_others_without_tables_and_without_layer_scale(name: str):
    encoder = read_encoder(load_golden(name).state())
    for part in ("rel_pos_bias", "relative_position_bias_table", "ls1.gamma", "ls2.gamma"):
        vit = _vit(encoder)
        with torch.no_grad():
            changed = [p for key, p in vit.named_parameters() if part in key]
            for parameter in changed:
                parameter.fill_(1.0 if "gamma" in part else 0.0)
        if changed:
            assert _distance(vit, name) > 100 * TOLERANCE
    vit = _vit(encoder)
    # Rows and columns of an offset exchanged.
    with torch.no_grad():
        for key, parameter in vit.named_parameters():
            if "bias_table" in key or "rel_pos_bias" in key:
                swapped = parameter.unflatten(0, (7, 7)).transpose(0, 1).flatten(0, 1)
                parameter.copy_(swapped.clone())
    assert _distance(vit, name) > 100 * TOLERANCE


def test_keys_have_no_bias_and_without_biases_there_is_none():
    state = load_golden("beit_pretrained").state()
    encoder = read_encoder(state)
    assert len(encoder.zero_key_biases) == 2
    q, k, v = encoder.tensors["blocks.1.attn.qkv.bias"].chunk(3)
    assert torch.equal(q, state["blocks.1.attn.q_bias"])
    assert not k.any()
    assert torch.equal(v, state["blocks.1.attn.v_bias"])
    encoder = read_encoder(load_golden("beitv2_finetuned").state())
    assert encoder.zero_key_biases == ()
    assert "blocks.0.attn.qkv.bias" not in encoder.tensors


def test_the_version_is_told_where_keys_tell_it():
    expected = {
        "beit_pretrained": "beit_or_beit_v2",
        "beit_finetuned": "beit_or_beit_v2",
        "beitv2_positions": "beit_or_beit_v2",
        "beitv2_pretrained": "beit_v2",
        "beitv2_finetuned": "beit_v2",
    }
    for name, source in expected.items():
        encoder = read_encoder(load_golden(name).state())
        assert encoder.source.name == source
        if source == "beit_v2":
            assert encoder.normalisation == IMAGENET
            assert encoder.notes == ()
        else:
            assert encoder.normalisation is None
            assert "name the source beit, beit_in1k or beit_v2" in encoder.notes[0]


@pytest.mark.parametrize(
    ("source", "normalisation"), [("beit", HALF), ("beit_in1k", IMAGENET), ("beit_v2", IMAGENET)]
)
def test_a_named_version_is_believed(source: str, normalisation: object):
    encoder = read_encoder(load_golden("beit_pretrained").state(), source)
    assert encoder.source.name == source
    assert encoder.normalisation == normalisation
    assert encoder.notes == ()


def test_keys_of_version_2_alone_are_not_taken_for_version_1():
    for name in ("beitv2_pretrained", "beitv2_finetuned"):
        with pytest.raises(WeightsError, match="keys are those of BEiT v2"):
            read_encoder(load_golden(name).state(), "beit")


def test_positions_alone_are_beit_by_their_layer_scale():
    state = load_golden("beitv2_positions").state()
    del state[SHARED], state["rel_pos_bias.relative_position_index"]
    assert read_encoder(state).source.name == "beit_or_beit_v2"
    # timm's ViTs with registers and rotary positions have the same names, and another attention.
    with pytest.raises(WeightsError, match="named beit, but its keys are those of a plain ViT"):
        read_encoder({**state, "reg_token": torch.ones(1, 1, 24)}, "beit")


def test_unknown_keys_are_an_error_that_lists_them():
    state = load_golden("beit_finetuned").state()
    extra = {"blocks.0.attn.temperature": torch.ones(2), "adapter.weight": torch.ones(2)}
    with pytest.raises(WeightsError, match=r"blocks.0.attn.temperature, adapter.weight"):
        read_encoder({**state, **extra})


@torch.no_grad()
def _timm_features(model: Beit, picture: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens of timm's blocks: of the patches alone, and with the class token."""
    model.eval()
    both = torch.cat([model.cls_token, model.patch_embed(picture)], dim=1)
    shared = None if model.rel_pos_bias is None else model.rel_pos_bias()
    alone = both[:, 1:]
    for block in model.blocks:
        both = block(both, shared_rel_pos_bias=shared)
    for block in model.blocks:
        attn = block.attn
        bias = shared if shared is not None else attn._get_rel_pos_bias()
        attn.relative_position_bias_table = None
        alone = block(alone, shared_rel_pos_bias=bias[..., 1:, 1:])
    return alone[0], both[0]


@pytest.mark.parametrize("shared", [False, True], ids=["per_block", "shared"])
def test_timms_layout_matches_timm(shared: bool, tmp_path: Path):
    model = Beit(
        img_size=16,
        patch_size=4,
        embed_dim=24,
        depth=2,
        num_heads=2,
        num_classes=3,
        init_values=0.1,
        use_abs_pos_emb=False,
        use_rel_pos_bias=not shared,
        use_shared_rel_pos_bias=shared,
    )
    state = {name: value.clone() for name, value in fill_model(model).items()}
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    picture = image(16, 16)
    alone, both = _timm_features(model, picture)
    vit = _vit(read_encoder(read_weights(path)))
    close(patch_features(vit, picture), alone)
    biases = [full_bias(_table(state, n), GRID) for n in range(2)]
    run = _with_biases(vit, biases)
    close(prefix_features(vit, picture, state["cls_token"][0], run), both)


@pytest.mark.parametrize(
    ("name", "heads", "count"),
    [("beit_pt", 12, 171), ("beit_pt2", 12, 171), ("beit_ft", 12, 182), ("beit_ft2", 12, 182)],
)
def test_full_size_files_are_accounted_for(name: str, heads: int, count: int):
    encoder = read_encoder({"model": key_lists.read(name)})
    assert encoder.num_heads == heads
    assert len(encoder.tensors) == count
