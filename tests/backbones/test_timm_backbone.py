# SPDX-License-Identifier: Apache-2.0
"""Models of timm as backbones: what comes out equals timm's own, what is frozen stays."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from timm.layers import DropPath
from torch import Tensor, nn

from tests.backbones.timm_case import SWIN
from vitdet_d2.backbones import TimmBackbone, pixel_statistics
from vitdet_d2.errors import RecipeError
from vitdet_d2.layers.norm import layer_norm

FULL_SWIN = "swin_tiny_patch4_window7_224"
RESNET = "test_resnet"


def stored_numbers(model: nn.Module, image: Tensor) -> int:
    """Return how many numbers are kept for the backward pass."""
    count = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal count
        count += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(image)
    return count


@pytest.mark.parametrize("name", [RESNET, "test_efficientnet", "test_convnext"])
def test_maps_are_those_of_timms_own_extractor(name: str) -> None:
    ours = TimmBackbone(name).eval()
    theirs = timm.create_model(name, features_only=True, out_indices=(-4, -3, -2, -1)).eval()
    renamed = {key.replace(".", "_"): value for key, value in ours.net.state_dict().items()}
    for key, value in theirs.state_dict().items():
        value.copy_(renamed[key.replace(".", "_")])
    image = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        expected, maps = theirs(image), ours(image)
    assert list(maps) == theirs.feature_info.module_name()
    assert [s.stride for s in ours.output_shape().values()] == theirs.feature_info.reduction()
    assert [s.channels for s in ours.output_shape().values()] == theirs.feature_info.channels()
    for one, other in zip(maps.values(), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_five_levels_give_four_by_default() -> None:
    with torch.device("meta"):
        net = TimmBackbone("resnet18")
        stem_too = TimmBackbone("resnet18", out_indices=(0, -2))
    assert list(net.output_shape()) == ["layer1", "layer2", "layer3", "layer4"]
    assert list(stem_too.output_shape()) == ["act1", "layer3"]
    assert [s.stride for s in stem_too.output_shape().values()] == [2, 16]
    assert not hasattr(stem_too.net, "layer4") or not list(stem_too.net.layer4.parameters())
    assert stem_too.size_divisibility == 16


def test_names_that_timm_gives_twice_are_numbered() -> None:
    with torch.device("meta"):
        net = TimmBackbone("coat_tiny", img_size=224)
    assert list(net.output_shape()) == ["serial_blocks1", "level1", "level2", "level3"]


def test_channels_last_models_give_channels_first() -> None:
    net = TimmBackbone(SWIN, out_norm=layer_norm(1e-5)).eval()
    with torch.no_grad():
        maps = net(torch.randn(1, 3, 96, 160))
    assert [tuple(m.shape) for m in maps.values()] == [
        (1, 12, 24, 40),
        (1, 24, 12, 20),
        (1, 48, 6, 10),
        (1, 96, 3, 5),
    ]
    for feature in maps.values():  # each output has its norm over channels
        torch.testing.assert_close(
            feature.mean(1), torch.zeros_like(feature[:, 0]), atol=1e-5, rtol=0
        )
    assert [n for n, _ in net.named_children()] == ["net", "norm0", "norm1", "norm2", "norm3"]


def test_every_parameter_gets_a_gradient() -> None:
    net = TimmBackbone(SWIN)
    sum(m.sum() for m in net(torch.randn(1, 3, 64, 64)).values()).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_drop_path_is_of_the_rate() -> None:
    net = TimmBackbone(SWIN, drop_path_rate=0.4)
    rates = [m.drop_prob for m in net.modules() if isinstance(m, DropPath)]
    assert max(rates) == pytest.approx(0.4)
    assert not [m for m in TimmBackbone(SWIN, drop_path_rate=0.0).modules() if type(m) is DropPath]
    with pytest.raises(RecipeError, match=r"'dla34' has no option drop_path_rate; leave it out"):
        TimmBackbone("dla34", drop_path_rate=0.1)


@pytest.mark.parametrize("name", ["resnet18", SWIN, "twins_svt_small"])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_frozen_is_what_the_level_depends_on(name: str, count: int) -> None:
    size = 224 if name == "twins_svt_small" else None
    with torch.device("meta"):
        net = TimmBackbone(name, frozen_stages=count, drop_path_rate=0.5, img_size=size).train()
    frozen = {key for key, p in net.named_parameters() if not p.requires_grad}
    starts = {
        "resnet18": [("conv1", "bn1"), ("layer1",)],
        SWIN: [("patch_embed", "layers.0"), ("layers.1",)],
        # Registered by kind, not by stage.
        "twins_svt_small": [
            ("patch_embeds.0", "blocks.0", "pos_block.0"),
            ("patch_embeds.1", "blocks.1", "pos_block.1"),
        ],
    }[name][:count]
    prefixes = tuple(f"net.{start}." for group in starts for start in group)
    assert frozen == {key for key, _ in net.named_parameters() if key.startswith(prefixes)}
    for key, module in net.named_modules():
        is_frozen = f"{key}.".startswith(prefixes) if prefixes else False
        assert module.training is not is_frozen, key


def test_frozen_stays_through_training() -> None:
    torch.manual_seed(0)
    net = TimmBackbone("resnet18", frozen_stages=2)
    for parameter in net.parameters():  # timm starts residual branches at zero
        nn.init.normal_(parameter, std=0.1)
    before = copy.deepcopy(net.state_dict())
    net.eval().train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    sum(m.square().mean() for m in net(torch.randn(2, 3, 64, 64)).values()).backward()
    optimizer.step()
    frozen = ("net.conv1.", "net.bn1.", "net.layer1.")
    for key, value in net.state_dict().items():
        # Statistics too: batch norms of frozen modules do not count.
        assert torch.equal(value, before[key]) is key.startswith(frozen), key


def test_frozen_stays_where_norms_are_replaced() -> None:
    with torch.device("meta"):
        net = TimmBackbone("resnet18", frozen_stages=2)
    net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    net.train()
    norms = [m for m in net.modules() if isinstance(m, nn.SyncBatchNorm)]
    # That of the stem, and two in each of two blocks.
    assert [m.training for m in norms] == [False] * 5 + [True] * (len(norms) - 5)
    assert len(norms) == 20


def test_frozen_before_weights_are_loaded_takes_them() -> None:
    net, other = TimmBackbone(RESNET, frozen_stages=1), TimmBackbone(RESNET)
    net.load_state_dict(other.state_dict())
    torch.testing.assert_close(net.state_dict(), other.state_dict())


@pytest.mark.parametrize("name", ["test_convnext", RESNET, SWIN])
def test_recomputed_activations_change_no_gradient(name: str) -> None:
    plain = TimmBackbone(name).eval()
    frugal = TimmBackbone(name, use_act_checkpoint=True).eval()
    frugal.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 64, 96)
    for net in (plain, frugal):
        sum(m.square().mean() for m in net(image).values()).backward()
    gradients = [dict(net.named_parameters()) for net in (plain, frugal)]
    for key, parameter in gradients[0].items():
        torch.testing.assert_close(parameter.grad, gradients[1][key].grad, msg=key)
    assert stored_numbers(frugal, image) < 0.6 * stored_numbers(plain, image)
    frugal.use_act_checkpoint = False
    assert stored_numbers(frugal, image) == stored_numbers(plain, image)


def test_fixed_models_take_their_size_alone() -> None:
    with pytest.raises(
        RecipeError,
        match=r"'hiera_tiny_224' takes images of one fixed size, by default 224x224, and it can be "
        r"built for any; give img_size=\(height, width\)",
    ):
        TimmBackbone("hiera_tiny_224")
    with torch.device("meta"):
        net = TimmBackbone("hiera_tiny_224", img_size=96).eval()
        assert net.padding_constraints == {"square_size": 96}
        assert net(torch.randn(1, 3, 96, 96))["blocks.11"].shape == (1, 768, 3, 3)
        with pytest.raises(RecipeError, match=r"built for images of 96x96 alone, got 96x128; pad"):
            net(torch.randn(1, 3, 96, 128))
    with pytest.raises(RecipeError, match=r"'levit_128' takes .* of 224x224 alone"):
        TimmBackbone("levit_128", img_size=512)
    with pytest.raises(RecipeError, match=r"'resnet18' takes images of any size; leave img_size"):
        TimmBackbone("resnet18", img_size=512)
    with pytest.raises(RecipeError, match=r"img_size: expected one number, or height and width"):
        TimmBackbone("hiera_tiny_224", img_size=(1, 2, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "swin_tinny"}, r"has no model 'swin_tinny'; did you mean .*swin"),
        ({"name": f"{FULL_SWIN}.nope"}, r"no weights of this tag; there are swin_tiny.*ms_in1k"),
        (
            {"name": "vit_tiny_patch16_224"},
            r"is plain: all of its maps have stride 16, .*vitdet_d2\.backbones\.ViT",
        ),
        ({"name": "sequencer2d_s"}, r"no two maps of strides 4, 8, 16, 32.*stride 7, 192 channels"),
        (
            {"name": "resnet18", "out_indices": (1, 5)},
            r"out_indices=\[1, 5\]: .*0: act1 \(stride 2, 64 channels\).*numbers of 0 to 4",
        ),
        ({"name": "resnet18", "out_indices": ()}, r"out_indices=\[\]: .*give numbers of 0 to 4"),
        ({"name": "resnet18", "out_indices": 3}, r"out_indices: expected a list of .*, got 3"),
        ({"name": "resnet18", "out_indices": ("layer1",)}, r"out_indices: expected .*'layer1'"),
        ({"name": "resnet18", "drop_path_rate": 1.5}, r"0 <= drop_path_rate < 1, got 1.5"),
        ({"name": "resnet18", "out_indices": (2, 1)}, r"expected increasing numbers, got \[2, 1\]"),
        ({"name": "resnet18", "frozen_stages": 6}, r"frozen_stages=6: .* has 5 levels up to"),
        (
            {"name": "resnet18", "out_indices": (1,), "frozen_stages": 3},
            r"frozen_stages=3: .* has 2 levels up to the last one that is returned; give 0 to 2",
        ),
        (
            {"name": "dla34", "use_act_checkpoint": True},
            r"'dla34' cannot compute activations again",
        ),
        (
            {"name": "resnet18", "use_act_checkpoint": "selective"},
            r"as a whole or not at all; expected true or false, got 'selective'",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        TimmBackbone(**arguments)  # type: ignore[arg-type]


def test_plain_models_give_maps_of_one_stride_when_asked() -> None:
    with torch.device("meta"):
        net = TimmBackbone("vit_tiny_patch16_224", out_indices=(5, 11))
    assert [s.stride for s in net.output_shape().values()] == [16, 16]


def test_models_whose_maps_do_not_fit_a_pyramid_say_so() -> None:
    with torch.device("meta"):
        net = TimmBackbone("inception_v4", out_indices=(1, 2)).eval()
        with pytest.raises(RecipeError, match=r"'features.3' .* 4 has the size 22x22 .*96x96"):
            net(torch.zeros(1, 3, 96, 96))


def test_sizes_that_timm_refuses_are_named() -> None:
    with torch.device("meta"):
        net = TimmBackbone("halonet26t").eval()
        with pytest.raises(RecipeError, match=r"'halonet26t' does not take images of 96x160"):
            net(torch.zeros(1, 3, 96, 160))


def test_weights_that_cannot_be_had_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no route to huggingface")

    monkeypatch.setattr("timm.models._builder.load_pretrained", offline)
    with pytest.raises(
        RecipeError,
        match=r"'resnet18': its pre-trained weights cannot be had now \(OSError: no route .*"
        r"create_model\('resnet18', pretrained=True\).*pretrained=False",
    ):
        TimmBackbone("resnet18", pretrained=True)
    with pytest.raises(RecipeError, match="timm has no pre-trained weights of it"):
        TimmBackbone(SWIN, pretrained=True)


def test_pixel_statistics_are_those_of_the_weights() -> None:
    mean, std = pixel_statistics(FULL_SWIN)
    assert mean == pytest.approx([123.675, 116.28, 103.53])
    assert std == pytest.approx([58.395, 57.12, 57.375])
    assert pixel_statistics("vit_base_patch16_224.augreg_in21k") == ([127.5] * 3, [127.5] * 3)


def test_fpn_stands_on_any_of_them() -> None:
    bottom_up = TimmBackbone("test_convnext")
    net = FPN(bottom_up, list(bottom_up.output_shape()), 16, top_block=LastLevelMaxPool())
    maps = net(torch.randn(1, 3, 64, 96))
    assert [tuple(m.shape[2:]) for m in maps.values()] == [
        (16, 24),
        (8, 12),
        (4, 6),
        (2, 3),
        (1, 2),
    ]
    assert net.size_divisibility == 32
