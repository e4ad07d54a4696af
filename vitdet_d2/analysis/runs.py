# SPDX-License-Identifier: Apache-2.0
"""What is measured: a forward pass at test, and a training step, on noise and random weights.

Time and memory do not depend on either, as long as the heads get their nominal numbers of regions,
which is seen to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vitdet_d2.analysis.detector_count import nominal_regions
from vitdet_d2.analysis.job import Job
from vitdet_d2.analysis.synthetic import noise_batch, noise_images
from vitdet_d2.engine.build import apply_block_options, build_optimizer
from vitdet_d2.engine.settings import TrainSettings

_AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}

# Added to the score of a class, so that random weights detect as much as a trained model may.
_CERTAIN = 10.0
# Objects of images for detectors without regions, as many as COCO has on average.
_FEW_OBJECTS = 7


def precision_of(job: Job, settings: TrainSettings, device: torch.device) -> torch.dtype | None:
    """Return what autocast computes in; None: all in the type of the weights.

    Args:
        job: its ``amp`` and phase.
        settings: of the recipe.
        device: of the run.
    """
    if job.amp != "recipe":
        return _AMP.get(job.amp)
    return settings.amp_dtype if job.phase == "training" and device.type != "cpu" else None


def inference_run(job: Job, model: nn.Module, precision: torch.dtype | None) -> Callable[[], Any]:
    """Return what runs a batch, and returns how much was detected.

    Args:
        job: its sizes and numbers.
        model: put into eval mode, and made to detect much.
        precision: that autocast computes in; None: all in the type of the weights.
    """
    model.eval()
    device = next(model.parameters()).device
    inputs = noise_images(job.batch, job.image_size, channels=_channels(model))
    detect_much(model)

    @torch.no_grad()
    def run() -> int | None:
        with _autocast(device, precision):
            if job.part == "backbone":
                model.get_submodule("backbone")(_stacked(inputs, device))
                return None
            outputs = model(inputs)
        return sum(len(output["instances"]) for output in outputs if "instances" in output)

    return run


def detect_much(model: nn.Module) -> None:
    """Let a detector with random weights find as many objects as it may return.

    Its scores would all be below the threshold, and neither non-maximum suppression nor the mask
    head would have anything to do.

    Args:
        model: changed in place, where it has a box predictor or a dense head.
    """
    predictor = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    stages = list(predictor) if isinstance(predictor, nn.ModuleList) else [predictor]
    for stage in [*stages, getattr(model, "head", None)]:
        score = getattr(stage, "cls_score", None)
        if isinstance(score, (nn.Linear, nn.Conv2d)) and score.bias is not None:
            with torch.no_grad():
                score.bias[0] += _CERTAIN


def training_run(
    job: Job,
    cfg: DictConfig,
    model: nn.Module,
    settings: TrainSettings,
    precision: torch.dtype | None,
) -> Callable[[], None]:
    """Return what runs a step of forward pass, backward pass and optimizer.

    Args:
        job: its sizes and numbers.
        cfg: reads ``optimizer``.
        model: put into training mode; its weights stay as they are.
        settings: of the recipe; what is frozen, computed again or compiled.
        precision: that autocast computes in; None: all in the type of the weights.
    """
    device = next(model.parameters()).device
    apply_block_options(model, settings, device)
    optimizer = build_optimizer(cfg, model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # the same work, and weights that stay: all steps are alike
    # Small enough that no step overflows: the optimizer would leave that one out.
    scaler = torch.amp.GradScaler(device.type, 256.0) if precision is torch.float16 else None
    inputs = training_batch(job, cfg, model)
    model.train()

    def run() -> None:
        optimizer.zero_grad()
        with _autocast(device, precision), EventStorage(0):
            if job.part == "backbone":
                maps = model.get_submodule("backbone")(_stacked(inputs, device))
                losses = {name: value.float().mean() for name, value in maps.items()}
            else:
                losses = model(inputs)
        total: Any = sum(losses.values())
        (total if scaler is None else scaler.scale(total)).backward()
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()

    return run


def training_batch(job: Job, cfg: DictConfig, model: nn.Module) -> list[dict[str, Any]]:
    """Return what every training step gets.

    Args:
        job: its sizes and numbers.
        cfg: reads ``dataloader.train.mapper.instance_mask_format``.
        model: a detector, whose heads say how many objects they take.
    """
    channels = _channels(model)
    if job.part == "backbone":
        return noise_images(job.batch, job.image_size, channels=channels)
    heads: Any = getattr(model, "roi_heads", None)
    regions = nominal_regions(model, training=True)
    quota = _FEW_OBJECTS if regions is None else int(heads.batch_size_per_image)
    if regions is not None:
        quota = max(1, int(quota * heads.positive_fraction))
    form = OmegaConf.select(cfg, "dataloader.train.mapper.instance_mask_format") or "polygon"
    return noise_batch(
        job.batch,
        job.image_size,
        num_objects=quota if job.num_objects is None else job.num_objects,
        num_classes=int(getattr(heads if heads is not None else model, "num_classes", 1)),
        masks=str(form) if regions is not None and regions.masks else None,
        channels=channels,
    )


def _channels(model: nn.Module) -> int:
    mean = getattr(model, "pixel_mean", None)
    return 3 if mean is None else len(mean)


def _stacked(inputs: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
    return torch.stack([sample["image"] for sample in inputs]).to(device).float() / 255


def _autocast(
    device: torch.device, precision: torch.dtype | None
) -> contextlib.AbstractContextManager[object]:
    if precision is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=precision)
