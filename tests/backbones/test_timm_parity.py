# SPDX-License-Identifier: Apache-2.0
"""timm's Swin and MViTv2 compute what Detectron2's classes do, at any size of images."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models.swin_transformer import SwinTransformerBlock
from torch import nn

from tests.backbones.timm_case import MVIT, MVIT_CLASS_TOKEN, SWIN
from tests.backbones.timm_parity import IMAGES, name_of_ours, ours, stored, their_names
from tests.backbones.vit_case import fingerprint, pixels
from tests.closed_form import tensor, value_for
from vitdet_d2.backbones import TimmBackbone
from vitdet_d2.errors import RecipeError

# float64: another order of sums, and keys of windows in another layout.
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


def filled(kind: str) -> TimmBackbone:
    """Return our model with the values that the golden's weights have under Detectron2's names."""
    net = ours(kind).double().eval()
    own = net.state_dict()
    theirs = {place: name for name, place in name_of_ours(kind, their_names(kind)).items()}
    assert set(theirs) == set(own)
    net.load_state_dict({place: value_for(theirs[place], own[place]) for place in own})
    return net


@pytest.mark.parametrize("size", IMAGES)
@pytest.mark.parametrize("kind", ["swin", "mvit"])
def test_maps_are_those_of_detectron2(kind: str, size: str) -> None:
    net = filled(kind)
    with torch.no_grad():
        maps = net(pixels(IMAGES[size]))
    expected = stored(kind, f"{size}/output")
    assert len(maps) == len(expected) == 4
    for i, value in enumerate(maps.values()):
        torch.testing.assert_close(fingerprint(value), expected[str(i)], **TOLERANCE)


@pytest.mark.parametrize("kind", ["swin", "mvit"])
def test_gradients_are_those_of_detectron2(kind: str) -> None:
    net = filled(kind)
    x = pixels(IMAGES["odd"]).requires_grad_()
    outputs = dict(zip(_their_outputs(kind), net(x).values(), strict=True))
    sum((v * tensor(n, tuple(v.shape)).to(v.dtype)).sum() for n, v in outputs.items()).backward()
    expected = stored(kind, "odd/gradient")
    assert x.grad is not None
    torch.testing.assert_close(fingerprint(x.grad), expected.pop("input"), **TOLERANCE)
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    for theirs, place in name_of_ours(kind, expected).items():
        gradient = gradients[place]
        assert gradient is not None, place
        torch.testing.assert_close(fingerprint(gradient), expected[theirs], **TOLERANCE)


def _their_outputs(kind: str) -> list[str]:
    return [f"p{i}" if kind == "swin" else f"scale{i + 2}" for i in range(4)]


def test_timms_own_windows_differ_where_maps_are_padded() -> None:
    """The comparison has power: with timm's order of rolling and padding it fails."""
    net = filled("swin")
    for module in net.modules():
        if isinstance(module, SwinTransformerBlock):
            module.__class__ = SwinTransformerBlock
    with torch.no_grad():
        maps = net(pixels(IMAGES["padded_windows"]))
    first = next(iter(maps.values()))
    expected = stored("swin", "padded_windows/output")["0"]
    assert (fingerprint(first) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("name", [MVIT, MVIT_CLASS_TOKEN])
def test_mvit_without_windows_is_timms_at_its_size(name: str) -> None:
    theirs = timm.create_model(name, num_classes=0).double().eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    net = TimmBackbone(name).double().eval()
    assert net.net.load_state_dict(theirs.state_dict(), strict=False).missing_keys == []
    image = pixels((224, 224))
    with torch.no_grad():
        expected = theirs.forward_intermediates(image, intermediates_only=True)
        for one, other in zip(net(image).values(), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        assert [m.shape[2:] for m in net(pixels((96, 160))).values()][-1] == (3, 5)


def test_hybrid_windows_are_refused_where_they_make_no_sense() -> None:
    with pytest.raises(RecipeError, match=rf"of the MViTv2 family.*model '{SWIN}' is none"):
        TimmBackbone(SWIN, window_size=7)
    with pytest.raises(RecipeError, match=r"window_size=12: expected a multiple of 8.*is 56"):
        TimmBackbone(MVIT, window_size=12)
