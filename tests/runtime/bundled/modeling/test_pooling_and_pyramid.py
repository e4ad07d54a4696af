# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.poolers import (
    ROIPooler,
    assign_boxes_to_levels,
    convert_boxes_to_pooler_format,
)
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torchvision.ops import roi_align

SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]


def _square(*sides: float) -> Boxes:
    return Boxes(torch.tensor([[0.0, 0, side, side] for side in sides]).reshape(-1, 4))


def test_levels_of_boxes_by_size() -> None:
    boxes = [_square(0, 56, 111, 112), _square(223.9, 224, 448, 5000)]
    levels = assign_boxes_to_levels(boxes, 2, 5, canonical_box_size=224, canonical_level=4)
    assert levels.tolist() == [0, 0, 0, 1, 1, 2, 3, 3]
    assert levels.dtype == torch.int64


def test_pooler_format() -> None:
    rows = convert_boxes_to_pooler_format([_square(1, 2), _square(), _square(3)])
    assert rows.tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 2, 2], [2, 0, 0, 3, 3]]


@pytest.mark.parametrize("output_size", [3, (2, 5)])
def test_pooler_equals_one_box_at_a_time(output_size: int | tuple[int, int]) -> None:
    maps = [torch.randn(2, 3, 512 // 2**i, 512 // 2**i, requires_grad=True) for i in range(2, 6)]
    boxes = []
    for _ in range(2):
        corner = torch.rand(12, 2) * 100
        boxes.append(Boxes(torch.cat([corner, corner + torch.logspace(0, 2.6, 12)[:, None]], 1)))
    pooler = ROIPooler(output_size, SCALES, 0, "ROIAlignV2")
    crops = pooler(maps, boxes)

    levels = assign_boxes_to_levels(boxes, 2, 5, 224, 4)
    assert set(levels.tolist()) == {0, 1, 2}  # one level has no box
    rows = convert_boxes_to_pooler_format(boxes)
    for row, level, crop in zip(rows, levels.tolist(), crops, strict=True):
        expected = roi_align(maps[level], row[None], output_size, SCALES[level], 0, aligned=True)
        assert torch.equal(crop, expected[0])
    crops.sum().backward()
    # The unused level has a gradient too (of zeros), for distributed training.
    assert [m.grad is not None for m in maps] == [True] * 4
    assert maps[3].grad.abs().max() == 0 < maps[0].grad.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_cropped_at_exact_boxes(dtype: torch.dtype) -> None:
    # A ramp of one step per pixel at 1021: where bfloat16 would round the box by four pixels.
    feature = (torch.arange(1024.0) - 1021).clamp(-8, 8).expand(1, 1, 2, 1024).to(dtype)
    boxes = [Boxes(torch.tensor([[1021.0, 0, 1023, 2]]))]
    crop = ROIPooler(1, [1.0], 0, "ROIAlignV2")([feature], boxes)
    assert crop.dtype == dtype
    assert float(crop) == 0.5


def test_pooler_without_boxes() -> None:
    maps = [torch.randn(2, 3, 8 // 2**i, 8 // 2**i) for i in range(4)]
    pooler = ROIPooler(7, SCALES, 0, "ROIAlignV2")
    assert pooler(maps, [_square(), _square()]).shape == (0, 3, 7, 7)
    assert pooler(maps, []).shape == (0, 3, 7, 7)


def test_single_level_poolers() -> None:
    feature = torch.arange(16.0).reshape(1, 1, 4, 4)
    boxes = [Boxes(torch.tensor([[0.0, 0, 16, 16]]))]
    assert ROIPooler(1, [1 / 4], 0, "ROIPool")([feature], boxes).item() == 15
    assert ROIPooler(1, [1 / 4], 0, "ROIAlignV2")([feature], boxes).item() == 7.5
    assert ROIPooler(1, [1 / 4], 0, "ROIAlign")([feature], boxes).item() > 7.5


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((7, SCALES, 0, "ROIAlignRotated"), "pooler_type: expected ROIAlign"),
        ((7, [1 / 3], 0, "ROIAlign"), "scales: expected 1 / stride with a power of 2"),
        ((7, [1 / 4, 1 / 16], 0, "ROIAlign"), "scales: expected each to be half"),
        (((7, 7, 7), SCALES, 0, "ROIAlign"), "output_size: expected one or two positive ints"),
        ((7, SCALES, 0, "ROIAlign", 0), "canonical_box_size: expected > 0"),
    ],
)
def test_pooler_names_a_wrong_argument(arguments: tuple, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ROIPooler(*arguments)


def test_pooler_names_a_wrong_number_of_maps_or_images() -> None:
    pooler = ROIPooler(7, SCALES, 0, "ROIAlignV2")
    maps = [torch.zeros(2, 1, 4, 4)] * 4
    with pytest.raises(ValueError, match="x: expected 4 feature maps, got 3"):
        pooler(maps[:3], [_square(1)] * 2)
    with pytest.raises(ValueError, match="box_lists: expected one for each of the 2 images"):
        pooler(maps, [_square(1)])


class _Strides(Backbone):
    """Average pooling to strides 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self._out_features = ["c3", "c4", "c5"]
        self._out_feature_strides = {"c3": 8, "c4": 16, "c5": 32}
        self._out_feature_channels = dict.fromkeys(self._out_features, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {
            name: nn.functional.avg_pool2d(x, stride)
            for name, stride in self._out_feature_strides.items()
        }


def test_fpn_adds_what_comes_from_above() -> None:
    fpn = FPN(_Strides(), ["c3", "c4", "c5"], 2, top_block=LastLevelMaxPool())
    assert fpn.output_shape() == {f"p{i}": ShapeSpec(channels=2, stride=2**i) for i in (3, 4, 5, 6)}
    assert fpn.size_divisibility == 32
    assert fpn.padding_constraints == {"square_size": 0}
    assert sorted(fpn.state_dict()) == sorted(
        f"fpn_{kind}{i}.{leaf}"
        for kind in ("lateral", "output")
        for i in (3, 4, 5)
        for leaf in ("weight", "bias")
    )
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        pyramid = fpn(x)
        maps = fpn.bottom_up(x)
        above = fpn.fpn_lateral5(maps["c5"])
        middle = fpn.fpn_lateral4(maps["c4"]) + above.repeat_interleave(2, 2).repeat_interleave(
            2, 3
        )
    assert [tuple(p.shape[2:]) for p in pyramid.values()] == [(8, 12), (4, 6), (2, 3), (1, 2)]
    assert torch.equal(pyramid["p5"], fpn.fpn_output5(above))
    assert torch.equal(pyramid["p4"], fpn.fpn_output4(middle))
    assert torch.equal(pyramid["p6"], pyramid["p5"][:, :, ::2, ::2])


def test_fpn_averages_on_request_and_normalises_without_bias() -> None:
    fpn = FPN(_Strides(), ["c4", "c5"], 2, norm="LN", fuse_type="avg", square_pad=64)
    assert "fpn_output4.norm.weight" in fpn.state_dict()
    assert "fpn_output4.bias" not in fpn.state_dict()
    assert fpn.padding_constraints == {"square_size": 64}
    x = torch.randn(1, 3, 32, 32)
    maps = fpn.bottom_up(x)
    merged = (fpn.fpn_lateral4(maps["c4"]) + fpn.fpn_lateral5(maps["c5"])) / 2
    torch.testing.assert_close(fpn(x)["p4"], fpn.fpn_output4(merged))


def test_fpn_names_a_wrong_argument() -> None:
    with pytest.raises(ValueError, match=r"in_features: expected strides that double, got \[8, 32"):
        FPN(_Strides(), ["c3", "c5"], 2)
    with pytest.raises(ValueError, match="fuse_type: expected 'sum' or 'avg', got 'max'"):
        FPN(_Strides(), ["c3"], 2, fuse_type="max")
    with pytest.raises(ValueError, match=r"in_features: .* no map 'c9'; expected some of .*c3"):
        FPN(_Strides(), ["c3", "c9"], 2)


def _detections() -> Instances:
    detections = Instances((50, 100))
    detections.pred_boxes = Boxes(
        torch.tensor([[10.0, 10, 30, 20], [90, 40, 120, 60], [5, 5, 5, 9]])
    )
    detections.scores = torch.tensor([0.9, 0.8, 0.7])
    detections.pred_masks = torch.tensor([0.9, 0.2, 0.9]).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    return detections


def test_postprocessing_scales_clips_pastes_and_keeps_its_input() -> None:
    detections = _detections()
    before = detections.pred_boxes.tensor.clone()
    result = detector_postprocess(detections, 100, 150)
    assert result.image_size == (100, 150)
    assert result.pred_boxes.tensor.tolist() == [[15, 20, 45, 40], [135, 80, 150, 100]]
    assert result.scores.tolist() == pytest.approx([0.9, 0.8])
    assert result.pred_masks.shape == (2, 100, 150)
    assert result.pred_masks.dtype == torch.bool
    # All of the box but its rounded corners, and nothing else.
    assert 30 * 20 - 4 * 6 <= int(result.pred_masks[0].sum()) <= 30 * 20
    assert result.pred_masks[0, 20:40, 15:45].sum() == result.pred_masks[0].sum()
    assert int(result.pred_masks[1].sum()) == 0
    assert torch.equal(detections.pred_boxes.tensor, before)
    assert len(detections) == 3


def test_postprocessing_of_proposals_and_of_nothing() -> None:
    proposals = Instances((10, 10), proposal_boxes=_square(4))
    scaled = detector_postprocess(proposals, 20, 20).proposal_boxes
    assert scaled.tensor.tolist() == [[0, 0, 8, 8]]
    empty = detector_postprocess(_detections()[torch.zeros(3, dtype=torch.bool)], 20, 30)
    assert empty.pred_masks.shape == (0, 20, 30)
    with pytest.raises(ValueError, match="results: expected a field pred_boxes or proposal_boxes"):
        detector_postprocess(Instances((10, 10)), 20, 20)
