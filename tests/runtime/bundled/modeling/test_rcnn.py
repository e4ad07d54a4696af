# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    RPN_HEAD_REGISTRY,
    GeneralizedRCNN,
)
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from tests.parity import mask_rcnn_case
from tests.parity.mask_rcnn_case import CASES

# pycocotools 2.0.11 decodes with an `__array__` that numpy 2 finds outdated.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# Measured on Detectron2 02b5c4e with torch 2.15 on the CPU:
#   VITDET_D2_RUNTIME=installed python -m tests.parity.mask_rcnn_case \
#       tiny tests/runtime/bundled/modeling/goldens/mask_rcnn_tiny.json --dtype float64 --golden
GOLDEN = Path(__file__).parent / "goldens" / "mask_rcnn_tiny.json"


def test_whole_model_equals_stored_detectron2_results() -> None:
    golden = json.loads(GOLDEN.read_text())
    found = mask_rcnn_case.summary(mask_rcnn_case.run(CASES["tiny"], torch.float64))
    for a, b in zip(found["eval"], golden["eval"], strict=True):
        assert len(b["classes"]) >= 20
        assert len(set(b["classes"])) >= 3
        assert a["classes"] == b["classes"]
        np.testing.assert_allclose(a["boxes"], b["boxes"], rtol=0, atol=1e-3)  # float32 boxes
        np.testing.assert_allclose(a["scores"], b["scores"], rtol=0, atol=1e-9)
        assert sum(b["mask_pixels"]) > 1000
        np.testing.assert_allclose(a["mask_pixels"], b["mask_pixels"], rtol=1e-3, atol=1)
    assert found["losses"] == pytest.approx(golden["losses"], rel=1e-9)
    assert found["logged"] == pytest.approx(golden["logged"], rel=1e-9)
    assert found["gradients"].keys() == golden["gradients"].keys()
    for name, (largest, projection) in golden["gradients"].items():
        assert largest > 0
        # The projection sums the whole tensor, so that its error is that of the largest element.
        assert found["gradients"][name] == pytest.approx(
            [largest, projection], rel=1e-7, abs=1e-7 * largest
        ), name


class _Flat(torch.nn.Module):
    """A backbone that hands its input on."""

    size_divisibility = 32
    padding_constraints: dict[str, int] = {}  # noqa: RUF012  (read only)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"p2": x}


class _Heads(torch.nn.Module):
    """Heads that detect one box per image, the proposal, and lose its mean."""

    def forward(self, images: Any, features: Any, proposals: Any, targets: Any) -> Any:
        if self.training:
            self.targets = targets
            return proposals, {"loss": features["p2"].mean()}
        for p in proposals:
            p.pred_boxes = p.proposal_boxes
        return proposals, {}

    def forward_with_given_boxes(self, features: Any, instances: Any) -> Any:
        return instances


def _model(**options: Any) -> GeneralizedRCNN:
    arguments = {
        "backbone": _Flat(),
        "proposal_generator": None,
        "roi_heads": _Heads(),
        "pixel_mean": [10.0, 20, 30],
        "pixel_std": [1.0, 2, 5],
        **options,
    }
    return GeneralizedRCNN(**arguments)


def _input(rows: int, columns: int, **more: Any) -> dict[str, Any]:
    proposals = Instances((rows, columns), proposal_boxes=Boxes(torch.tensor([[0.0, 0, 8, 4]])))
    image = torch.full((3, rows, columns), 40, dtype=torch.uint8)
    return {"image": image, "proposals": proposals, **more}


def test_images_are_normalised_and_padded_with_zeros() -> None:
    model = _model()
    assert not model.state_dict()  # mean and deviation are not part of a checkpoint
    images = model.preprocess_image([_input(20, 40), _input(33, 10)])
    assert images.tensor.shape == (2, 3, 64, 64)
    assert images.image_sizes == [(20, 40), (33, 10)]
    assert images.tensor[0, :, 19, 39].tolist() == [30, 10, 2]
    assert images.tensor[0, :, 20].abs().max() == 0
    assert images.tensor[1, :, :, 10].abs().max() == 0


def test_detections_come_in_the_size_that_is_asked_for() -> None:
    model = _model().eval()
    first, second = model([_input(20, 40, height=40, width=20), _input(20, 40)])
    assert first["instances"].image_size == (40, 20)
    assert first["instances"].pred_boxes.tensor.tolist() == [[0, 0, 4, 8]]
    assert second["instances"].image_size == (20, 40)
    (raw,) = model.inference([_input(20, 40, height=40, width=20)], do_postprocess=False)
    assert raw.image_size == (20, 40)
    known = Instances((20, 40), pred_boxes=Boxes(torch.tensor([[1.0, 1, 2, 2]])))
    (given,) = model.inference([_input(20, 40)], [known])
    assert given["instances"].pred_boxes.tensor.tolist() == [[1, 1, 2, 2]]


def test_training_returns_losses_and_passes_targets_on() -> None:
    model = _model()
    targets = Instances((20, 40), gt_boxes=Boxes(torch.zeros(0, 4)))
    losses = model([_input(20, 40, instances=targets)])
    assert list(losses) == ["loss"]
    assert [len(t) for t in model.roi_heads.targets] == [0]
    model([_input(20, 40)])
    assert model.roi_heads.targets is None


def test_pictures_are_stored_every_period() -> None:
    model = _model(input_format="RGB", vis_period=2)
    targets = Instances((20, 40), gt_boxes=Boxes(torch.tensor([[2.0, 2, 9, 9]])))
    with EventStorage() as storage, patch.object(storage, "put_image") as put_image:
        for _ in range(3):
            model([_input(20, 40, instances=targets)])
            storage.step()
    assert put_image.call_count == 2
    name, picture = put_image.call_args.args
    assert name == "ground truth (left), best proposals (right)"
    assert picture.shape == (3, 20, 80)
    assert picture.dtype == np.uint8


def test_wrong_use_of_the_model() -> None:
    with pytest.raises(ValueError, match="pixel_std: expected 3 values as in pixel_mean, got 1"):
        _model(pixel_std=[1.0])
    with pytest.raises(ValueError, match="input_format: expected for example 'RGB'"):
        _model(vis_period=1)
    with pytest.raises(ValueError, match=r"call eval\(\) first"):
        _model().inference([_input(20, 40)])
    without = _input(20, 40)
    del without["proposals"]
    with pytest.raises(ValueError, match="proposals: expected in every input"):
        _model().eval()([without])


def test_parts_are_registered_under_their_names() -> None:
    for registry, name in (
        (META_ARCH_REGISTRY, "GeneralizedRCNN"),
        (PROPOSAL_GENERATOR_REGISTRY, "RPN"),
        (RPN_HEAD_REGISTRY, "StandardRPNHead"),
        (ROI_HEADS_REGISTRY, "StandardROIHeads"),
        (ROI_BOX_HEAD_REGISTRY, "FastRCNNConvFCHead"),
        (ROI_MASK_HEAD_REGISTRY, "MaskRCNNConvUpsampleHead"),
        (ANCHOR_GENERATOR_REGISTRY, "DefaultAnchorGenerator"),
    ):
        assert registry.get(name).__name__ == name
    assert "nothing" not in BACKBONE_REGISTRY


def test_our_backbone_and_neck_stand_under_detectron2_names() -> None:
    from detectron2 import modeling
    from detectron2.modeling import backbone
    from detectron2.modeling.backbone import vit

    from vitdet_d2.backbones.vit import ViT
    from vitdet_d2.necks.simple_feature_pyramid import SimpleFeaturePyramid

    for module in (modeling, backbone, vit):
        assert module.ViT is ViT
        assert module.SimpleFeaturePyramid is SimpleFeaturePyramid
        assert callable(module.get_vit_lr_decay_rate)
        with pytest.raises(AttributeError, match="is not part of the Detectron2 subset"):
            _ = module.RegNet
