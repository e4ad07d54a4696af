# SPDX-License-Identifier: Apache-2.0
"""Predict on pictures from Python: ``Predictor.from_recipe(...)(image)``.

A picture goes through what the recipe's test images go through, so that the numbers are those of
``vitdet eval``. Detections are in the pixels of the picture as a person sees it, after its EXIF
orientation.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Instances
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from vitdet_d2.checks.square_pad import refuse_cropping
from vitdet_d2.data.image_file import MAX_PIXELS, read_upright, upright
from vitdet_d2.engine.class_names import ClassTable
from vitdet_d2.engine.detector import Detector, load_detector, load_released
from vitdet_d2.engine.inference_dtype import inference_dtype
from vitdet_d2.errors import DataError
from vitdet_d2.evaluation.detect import RegionDetector, pasted

logger = logging.getLogger(__name__)

ChannelOrder = Literal["RGB", "BGR"]
Picture = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]


class Predictor:
    """A detector that takes pictures.

    Attributes:
        model: in eval mode.
        classes: names and category ids by class index, where they are known.
    """

    def __init__(
        self,
        model: nn.Module,
        augmentations: Sequence[T.Augmentation],
        *,
        model_order: ChannelOrder,
        classes: ClassTable | None = None,
        score_threshold: float | None = None,
        amp_dtype: torch.dtype | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Wrap a model that is built and loaded; the class methods build and load one.

        Args:
            model: in Detectron2's format; put into eval mode, and made to refuse images that its
                padding would cut off.
            augmentations: what test images go through, usually one `ResizeShortestEdge`.
            model_order: of the channels that the model takes.
            classes: what its class indices mean.
            score_threshold: detections below it are left out, in [0, 1]; None: as the model's
                ``test_score_thresh`` says.
            amp_dtype: what autocast computes in; None: as the weights are.
            max_pixels: larger picture files are not decoded.

        Raises:
            ValueError: the channel order or threshold is none.
        """
        if model_order not in ("RGB", "BGR"):
            raise ValueError(f"model_order: expected 'RGB' or 'BGR', got {model_order!r}")
        if score_threshold is not None and not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold: expected [0, 1], got {score_threshold}")
        self.model = refuse_cropping(model.eval())
        self.classes = classes
        self._augmentations = T.AugmentationList(list(augmentations))
        self._model_order = model_order
        self._score_threshold = score_threshold
        self._detector = RegionDetector(self.model, amp_dtype)
        self._max_pixels = max_pixels
        if score_threshold is not None:
            _set_threshold(self.model, score_threshold)

    @classmethod
    def from_recipe(
        cls,
        config_file: str | os.PathLike[str],
        weights: str | os.PathLike[str],
        *,
        overrides: Sequence[str] = (),
        device: str = "auto",
        score_threshold: float | None = None,
        amp: bool = False,
        dtype: str | None = None,
    ) -> Predictor:
        """Build a recipe's model with weights.

        Args:
            config_file: path or name of a recipe.
            weights: a checkpoint of any readable format, an address, or a run folder.
            overrides: changes of the recipe, ``key=value``.
            device: "auto", "cpu", "cuda" or "cuda:N".
            score_threshold: as in `Predictor`.
            amp: compute in the recipe's ``train.amp.dtype`` where it has one and the device is a
                GPU.
            dtype: "auto" (bf16 on a GPU, else fp32), "fp32", "bf16" or "fp16"; None: the recipe's
                ``train.inference_dtype``, so that the numbers are those of evaluation.

        Raises:
            RecipeError: the recipe is not found, or nothing can be predicted with it.
            WeightsError: the weights cannot be read or do not fit.
        """
        detector = load_detector(weights, config_file, overrides, device)
        return cls.from_detector(detector, score_threshold=score_threshold, amp=amp, dtype=dtype)

    @classmethod
    def from_checkpoint(
        cls,
        weights: str | os.PathLike[str],
        *,
        overrides: Sequence[str] = (),
        device: str = "auto",
        score_threshold: float | None = None,
        amp: bool = False,
        dtype: str | None = None,
    ) -> Predictor:
        """Build a model from a checkpoint of ``vitdet train``, which carries its recipe.

        Args:
            weights: the checkpoint, or a run folder.
            overrides: as in `from_recipe`.
            device: as in `from_recipe`.
            score_threshold: as in `Predictor`.
            amp: as in `from_recipe`.
            dtype: as in `from_recipe`.

        Raises:
            WeightsError: the checkpoint cannot be read, or carries no recipe.
        """
        detector = load_detector(weights, None, overrides, device)
        return cls.from_detector(detector, score_threshold=score_threshold, amp=amp, dtype=dtype)

    @classmethod
    def from_zoo(
        cls,
        name: str,
        *,
        overrides: Sequence[str] = (),
        device: str = "auto",
        score_threshold: float | None = None,
        amp: bool = False,
        dtype: str | None = None,
    ) -> Predictor:
        """Take a released model, whose weights are downloaded at the first use.

        Args:
            name: of `vitdet zoo list`, for example ``vitdet_b``.
            overrides: as in `from_recipe`.
            device: as in `from_recipe`.
            score_threshold: as in `Predictor`.
            amp: as in `from_recipe`.
            dtype: as in `from_recipe`.

        Raises:
            RecipeError: there is no such model, or not yet.
            DownloadError: the weights cannot be downloaded now.
            WeightsError: what was downloaded is not these weights.
        """
        detector = load_released(name, overrides, device)
        return cls.from_detector(detector, score_threshold=score_threshold, amp=amp, dtype=dtype)

    @classmethod
    def from_detector(
        cls,
        detector: Detector,
        *,
        score_threshold: float | None = None,
        amp: bool = False,
        dtype: str | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Predictor:
        """Wrap a loaded detector.

        Args:
            detector: of `load_detector`.
            score_threshold: as in `Predictor`.
            amp: as in `from_recipe`.
            dtype: as in `from_recipe`.
            max_pixels: as in `Predictor`.
        """
        if amp and detector.amp_dtype is None:
            logger.warning("amp: the recipe's train.amp is off, or there is no GPU; not used")
        chosen = detector.inference_dtype
        if dtype is not None:
            device = next(detector.model.parameters()).device
            chosen = inference_dtype(dtype, device, "dtype")
        elif amp and detector.amp_dtype is not None:
            chosen = detector.amp_dtype
        return cls(
            detector.model,
            detector.augmentations,
            model_order="BGR" if detector.channel_order == "BGR" else "RGB",
            classes=detector.classes,
            score_threshold=score_threshold,
            amp_dtype=chosen,
            max_pixels=max_pixels,
        )

    def __call__(self, image: Picture, *, channel_order: ChannelOrder | None = None) -> Instances:
        """Predict on one picture.

        Args:
            image: a file, a Pillow image, or ``(H, W, 3)`` uint8. Files and Pillow images are
                turned upright by their EXIF orientation.
            channel_order: of an array, for which it must be stated: "RGB" as Pillow, imageio and
                matplotlib give it, "BGR" as OpenCV does. None for the others, which know theirs.

        Returns:
            ``pred_boxes`` (XYXY), ``scores``, ``pred_classes`` and, with a mask head,
            ``pred_masks``, on the CPU, in the pixels of the upright picture, best first.

        Raises:
            DataError: the picture cannot be read or used; the message names it.
            ValueError: an array of another type or shape, or without its channel order.
        """
        return self.predict_batch([self.read(image, channel_order=channel_order)])[0]

    def predict_many(
        self,
        images: Iterable[Picture],
        *,
        channel_order: ChannelOrder | None = None,
        batch_size: int = 1,
    ) -> Iterator[Instances]:
        """Predict on pictures, reading them as they are needed.

        Args:
            images: each as for a call.
            channel_order: of all arrays among them.
            batch_size: how many go through the model at once.

        Yields:
            The detections of each, in order.

        Raises:
            DataError: a picture cannot be read or used.
            ValueError: as for a call; or `batch_size` is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        rest = iter(images)
        while batch := list(itertools.islice(rest, batch_size)):
            read = [self.read(image, channel_order=channel_order) for image in batch]
            yield from self.predict_batch(read)

    def read(
        self, image: Picture, *, channel_order: ChannelOrder | None = None
    ) -> NDArray[np.uint8]:
        """Return a picture as ``(H, W, 3)`` RGB, upright.

        Args:
            image: as for a call.
            channel_order: as for a call.

        Raises:
            DataError: the picture cannot be read.
            ValueError: as for a call.
        """
        if isinstance(image, np.ndarray):
            return _checked_array(image, channel_order)
        if channel_order is not None:
            raise ValueError(
                f"channel_order={channel_order!r}: only for arrays; {type(image).__name__} knows "
                "its own, leave it out"
            )
        if isinstance(image, Image.Image):
            return upright(image).pixels
        if isinstance(image, (str, os.PathLike)):
            return read_upright(image, max_pixels=self._max_pixels).pixels
        raise ValueError(
            "image: expected a path, a Pillow image or an array (H, W, 3) of uint8, got "
            f"{type(image).__name__}"
        )

    def predict_batch(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Instances]:
        """Predict on pictures that were read, all at once.

        Args:
            pictures: ``(H, W, 3)`` RGB each, of any sizes.

        Returns:
            The detections of each, on the CPU.

        Raises:
            DataError: a picture is too thin to be resized.
            RecipeError: one is larger than the square that the model pads to.
        """
        return [pasted(instances) for instances in self.predict_regions(pictures)]

    def predict_regions(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Instances]:
        """Predict, and leave masks as the network gives them: run lengths need no bitmaps.

        Args:
            pictures: as for `predict_batch`.

        Returns:
            The same, with ``pred_masks`` as `RegionMasks`; those of a model with post-processing of
            its own as they are.

        Raises:
            DataError: a picture is too thin to be resized.
            RecipeError: one is larger than the square that the model pads to.
        """
        if not pictures:
            return []
        inputs = [self._model_input(picture) for picture in pictures]
        with torch.no_grad():
            outputs = self._detector(inputs)
        found = [output["instances"] for output in outputs]
        if self._score_threshold is None:
            return found
        return [instances[instances.scores >= self._score_threshold] for instances in found]

    def _model_input(self, picture: NDArray[np.uint8]) -> dict[str, Any]:
        height, width = picture.shape[:2]
        given = picture if self._model_order == "RGB" else picture[:, :, ::-1]
        augmented = T.AugInput(given)
        try:
            self._augmentations(augmented)
        except ValueError as error:
            raise DataError(
                f"a picture of {width} x {height} pixels (width x height) cannot be resized for "
                f"the model ({error})"
            ) from error
        channels_first = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        # The detections come back at this size, whatever the picture was resized to.
        return {"image": torch.from_numpy(channels_first), "height": height, "width": width}


def _checked_array(image: NDArray[Any], channel_order: ChannelOrder | None) -> NDArray[np.uint8]:
    """Return an array as RGB.

    Raises:
        ValueError: it is no picture of 8 bits, or its order is not stated.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"image: expected an array (H, W, 3) of uint8, got {image.shape} of {image.dtype}"
        )
    if channel_order not in ("RGB", "BGR"):
        raise ValueError(
            f"channel_order: expected 'RGB' (Pillow, imageio, matplotlib) or 'BGR' (OpenCV) for an "
            f"array, got {channel_order!r}"
        )
    return image if channel_order == "RGB" else image[:, :, ::-1]


def _set_threshold(model: nn.Module, threshold: float) -> None:
    """Let every predictor of the model drop detections below a score.

    What is dropped before non-maximum suppression could not have removed anything better, so the
    rest stays the same; only fewer masks are computed.
    """
    for module in model.modules():
        if isinstance(getattr(module, "test_score_thresh", None), (int, float)):
            module.__dict__["test_score_thresh"] = threshold
