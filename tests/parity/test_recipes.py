# SPDX-License-Identifier: Apache-2.0
"""The B, L and H recipes against Detectron2's official ones, for a checkout on the path."""

import inspect
import sys
import types
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import detectron2
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling.backbone import vit as original

from vitdet_d2.pretrained.reader import strip_query
from vitdet_d2.zoo import initialisation
from vitdet_d2.zoo.addresses import canonical

ROOT = Path(__file__).parents[2]
CHECKOUT = Path(detectron2.__file__).parents[1]
OFFICIAL = CHECKOUT / "projects/ViTDet/configs"
NAMES = {
    "vitdet_b": "COCO/mask_rcnn_vitdet_b_100ep.py",
    "vitdet_l": "COCO/mask_rcnn_vitdet_l_100ep.py",
    "vitdet_h": "COCO/mask_rcnn_vitdet_h_75ep.py",
    "cascade_vitdet_b": "COCO/cascade_mask_rcnn_vitdet_b_100ep.py",
    "cascade_vitdet_l": "COCO/cascade_mask_rcnn_vitdet_l_100ep.py",
    "cascade_vitdet_h": "COCO/cascade_mask_rcnn_vitdet_h_75ep.py",
    "lvis_vitdet_b": "LVIS/mask_rcnn_vitdet_b_100ep.py",
    "lvis_vitdet_l": "LVIS/mask_rcnn_vitdet_l_100ep.py",
    "lvis_vitdet_h": "LVIS/mask_rcnn_vitdet_h_100ep.py",
    "lvis_cascade_vitdet_b": "LVIS/cascade_mask_rcnn_vitdet_b_100ep.py",
    "lvis_cascade_vitdet_l": "LVIS/cascade_mask_rcnn_vitdet_l_100ep.py",
    "lvis_cascade_vitdet_h": "LVIS/cascade_mask_rcnn_vitdet_h_100ep.py",
}

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(
        "vitdet_d2" in original.ViT.__module__ or not OFFICIAL.is_dir(),
        reason="no checkout of Detectron2 with its projects is installed",
    ),
]


@pytest.fixture(scope="module", params=list(NAMES))
def pair(request):
    """Give our recipe and the official one."""
    # Its model zoo imports a module that current environments lack.
    stand_in = types.SimpleNamespace(
        resource_filename=lambda _, path: str(CHECKOUT / path),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pkg_resources", stand_in)
        official = LazyConfig.load(str(OFFICIAL / NAMES[request.param]))
    return LazyConfig.load(str(ROOT / f"projects/{request.param}.py")), official


def build(cfg):
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        # Detectron2's ViT reads its drop path rates from a tensor, which meta cannot hold.
        patch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))
        model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    return model, instantiate(cfg.optimizer)


# The parts that we name in Detectron2's place.
OURS = {
    "vitdet_d2.backbones.vit.ViT",
    "vitdet_d2.necks.simple_feature_pyramid.SimpleFeaturePyramid",
    "vitdet_d2.data.fixed_size_crop.FixedSizeCrop",
    "vitdet_d2.data.loader.build_detection_train_loader",
    "vitdet_d2.data.mapper.DatasetMapper",
    "vitdet_d2.evaluation.coco_evaluator.COCOEvaluator",
    "vitdet_d2.heads.cascade_roi_heads.CascadeROIHeads",
    "vitdet_d2.heads.fast_rcnn.FastRCNNOutputLayers",
    "vitdet_d2.heads.mask_head.MaskRCNNConvUpsampleHead",
    "vitdet_d2.heads.roi_heads.StandardROIHeads",
    "vitdet_d2.heads.roi_pooler.ROIPooler",
    "vitdet_d2.heads.rpn.RPN",
}


# What our parts have beyond Detectron2's, and the values that leave them as they are there.
BEYOND = {
    "pad_proposals": True,  # for our heads, which leave empty places out
    "cross_window": None,
    "cross_window_indexes": None,
    "conv_block": "bottleneck",
    "out_block_indexes": [],
    "layer_scale_init": None,
    "act": None,
    "mlp": "gelu",
    "mlp_norm": False,
    "pre_norm": False,
    "rope": None,
    "rel_pos_bias": None,
}
# How training images are resized: their grey values differ by up to 1, unless it is true.
PIXELS = "exact"


def plain(value):
    """Return a comparable form: calls with all their arguments, defaults included."""
    if isinstance(value, Mapping) and "_target_" in value:
        return _call(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    if inspect.isfunction(value) and value.__name__ == "<lambda>":
        return value().tolist()  # the class weights of the federated loss
    if isinstance(value, partial):
        return (value.func.__name__, value.args, value.keywords)
    return value


def _call(cfg):
    target = cfg["_target_"]
    if isinstance(target, str):
        module, _, name = target.rpartition(".")
        target = getattr(sys.modules[module], name)
    if target.__name__ in ("layer_norm", "layer_decay"):
        return plain(instantiate(cfg))
    if target.__name__ == "FederatedClassWeights":
        return instantiate(cfg)().tolist()
    full_name = f"{target.__module__}.{target.__qualname__}"
    name = target.__name__ if full_name in OURS else full_name
    parameters = inspect.signature(getattr(target, "__wrapped__", target)).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    given = {key: plain(item) for key, item in cfg.items() if key != "_target_"}
    arguments = {**plain(defaults), **given}
    if full_name in OURS:
        arguments.pop(PIXELS, None)
        arguments = {k: v for k, v in arguments.items() if k not in BEYOND or v != BEYOND[k]}
    return name, arguments


def assert_same(ours, theirs, path=""):
    """Compare calls by the name and the arguments, everything else by value."""
    if isinstance(ours, tuple) and len(ours) == 2 and isinstance(ours[1], dict):
        assert ours[0].rpartition(".")[2] == theirs[0].rpartition(".")[2], path
        ours, theirs = ours[1], theirs[1]
    if isinstance(ours, dict):
        assert isinstance(theirs, dict), path
        assert ours.keys() == theirs.keys(), path
        for key, value in ours.items():
            assert_same(value, theirs[key], f"{path}.{key}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), path
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{path}[{i}]")
    else:
        assert ours == theirs, path


def test_model_arguments(pair):
    ours, theirs = pair
    assert_same(plain(ours.model), plain(theirs.model), "model")


def test_optimizer_groups(pair):
    (our_model, our_optimizer), (their_model, their_optimizer) = (build(cfg) for cfg in pair)
    our_names, their_names = (
        {id(p): name for name, p in model.named_parameters()} for model in (our_model, their_model)
    )
    assert list(our_names.values()) == list(their_names.values())
    groups = zip(our_optimizer.param_groups, their_optimizer.param_groups, strict=True)
    for number, (our_group, their_group) in enumerate(groups):
        assert our_group.keys() == their_group.keys()
        for key in our_group.keys() - {"params"}:
            assert our_group[key] == their_group[key], (number, key)
        assert [our_names[id(p)] for p in our_group["params"]] == [
            their_names[id(p)] for p in their_group["params"]
        ]


@pytest.mark.slow
def test_learning_rate_of_every_iteration(pair):
    ours, theirs = pair
    iterations = theirs.train.max_iter
    assert ours.train.max_iter == iterations
    our_rate, their_rate = instantiate(ours.lr_multiplier), instantiate(theirs.lr_multiplier)
    for i in range(iterations):
        assert our_rate(i / iterations) == their_rate(i / iterations), i


def test_data_loader_settings(pair):
    ours, theirs = pair
    lvis = "sampler" in theirs.dataloader.train
    sampler = ("train.sampler",) if lvis else ()
    for part in ("train.mapper", "train.dataset", *sampler, "test", "evaluator"):
        our_part, their_part = ours.dataloader, theirs.dataloader
        for key in part.split("."):
            our_part, their_part = our_part[key], their_part[key]
        if part == "evaluator":
            assert our_part.dataset_name == their_part.dataset_name
            if lvis:
                assert our_part.max_dets_per_image == their_part.max_dets_per_image == 300
            continue
        our_plain, their_plain = plain(our_part), plain(their_part)
        assert_same(our_plain, their_plain, part)
    for key in ("total_batch_size", "num_workers"):
        assert ours.dataloader.train[key] == theirs.dataloader.train[key]


def test_training_settings(pair):
    ours, theirs = pair
    # Ours differ in precision and device; what Detectron2 has no key for is off.
    beyond = {
        "init_options": {
            "source": None,
            "layer_scale": "auto",
            "patch_resize": "pinv",
            "position_grid": None,
            "absent_positions": "zeros",
            "allow_partial": False,
            "normalisation": "source",
        },
        "amp": {"enabled": True, "dtype": "bf16"},
        "fsdp": {
            "enabled": False,
            "shard_size": None,
            "reshard_after_forward": True,
            "param_dtype": None,
            "checkpoints": "whole",
        },
        "device": "auto",
        "seed": -1,
        "global_batch": None,
        "accumulate": 1,
        "clip_grad": {"max_norm": None},
        "ema": {"decay": None},
        "freeze_blocks": 0,
        "activation_checkpointing": False,
        "compile": False,
        "cuda_graphs": False,
        "inference_dtype": "auto",
        "best_metric": None,
        "epochs": None,
        "warmup_epochs": None,
        "memory_strategy": None,
    }
    expected = {**plain(theirs.train), **beyond}
    found = plain(ours.train)
    # Ours name the weights; the name stands for the same file.
    row = initialisation(found.pop("init_checkpoint"))
    address = strip_query(expected.pop("init_checkpoint"))
    assert row is not None
    assert row.address == canonical(address)
    assert found == expected
