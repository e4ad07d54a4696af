# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.structures import ImageList
from safetensors.torch import load_file
from torch import nn

from tests.backbones import vit_case
from vitdet_d2.backbones import ViT
from vitdet_d2.errors import RecipeError
from vitdet_d2.necks import SimpleFeaturePyramid

GOLDEN = load_file(Path(vit_case.__file__).with_name("golden_vit.safetensors"))


def make(**changes):
    arguments = {"in_feature": "last_feat", "top_block": LastLevelMaxPool(), **vit_case.PYRAMID}
    return SimpleFeaturePyramid(ViT(**vit_case.TINY), **{**arguments, **changes})


def test_outputs_and_gradients_match_goldens():
    outputs, gradients = vit_case.run(make(), vit_case.pixels((64, 96)))
    for kind, values in (("output", outputs), ("gradient", gradients)):
        prefix = f"pyramid/{kind}/"
        stored = {k.removeprefix(prefix): v for k, v in GOLDEN.items() if k.startswith(prefix)}
        assert values.keys() == stored.keys()
        for name, value in values.items():
            # Measured in float64; 1e-9 leaves room for another BLAS.
            expected = stored[name]
            torch.testing.assert_close(
                vit_case.fingerprint(value), expected, rtol=1e-9, atol=1e-9, msg=name
            )


def test_shapes_are_those_declared():
    pyramid = make()
    outputs = pyramid(torch.zeros(1, 3, 64, 96))
    assert list(outputs) == ["p2", "p3", "p4", "p5", "p6"]
    for name, shape in pyramid.output_shape().items():
        expected = (1, shape.channels, -(-64 // shape.stride), -(-96 // shape.stride))
        assert outputs[name].shape == expected


def test_images_are_padded_to_a_multiple_of_the_stride():
    pyramid = make(square_pad=0)
    images = [torch.zeros(3, 40, 70), torch.zeros(3, 33, 20)]
    batch = ImageList.from_tensors(
        images, pyramid.size_divisibility, padding_constraints=pyramid.padding_constraints
    )
    assert batch.tensor.shape[-2:] == (64, 96)


def test_images_are_padded_to_a_square():
    constraints = make().padding_constraints
    assert constraints == {"size_divisibility": 32, "square_size": 96}
    batch = ImageList.from_tensors([torch.zeros(3, 40, 70)], padding_constraints=constraints)
    assert batch.tensor.shape[-2:] == (96, 96)


def test_without_norm_convolutions_have_a_bias():
    pyramid = make(norm="")
    assert pyramid.simfp_4[0].bias is not None
    assert pyramid.simfp_4[0].norm is None or isinstance(pyramid.simfp_4[0].norm, nn.Identity)
    assert pyramid(torch.zeros(1, 3, 32, 32))["p2"].shape == (1, 16, 8, 8)


def test_top_block_may_read_the_map_of_the_backbone():
    top_block = LastLevelMaxPool()
    top_block.in_feature = "last_feat"
    pyramid = make(scale_factors=(1.0,), top_block=top_block)
    outputs = pyramid(vit_case.pixels((64, 64), torch.float32))
    assert list(outputs) == ["p4", "p5"]
    assert outputs["p5"].shape[1] == 24  # the width of the backbone, as it comes


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"scale_factors": (4.0, 1.0)}, RecipeError, "each to be half of the one before"),
        ({"scale_factors": (0.25,)}, RecipeError, "expected 4, 2, 1 or 0.5, got 0.25"),
    ],
)
def test_bad_scales_raise(changes, error, message):
    with pytest.raises(error, match=message):
        make(**changes)


def test_net_must_be_a_backbone():
    with pytest.raises(TypeError, match="expected a detectron2 Backbone, got Identity"):
        SimpleFeaturePyramid(nn.Identity(), "last_feat", 8, (1.0,))
