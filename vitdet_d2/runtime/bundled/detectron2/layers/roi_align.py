# SPDX-License-Identifier: Apache-2.0
"""RoIAlign on torchvision's operator, with half-pixel alignment by default.

Source: Mask R-CNN, arXiv 1703.06870, section 3; the behaviour of detectron2
``layers/roi_align.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

__all__ = ["ROIAlign", "roi_align"]


class ROIAlign(nn.Module):
    """Crop boxes out of a feature map and resample each to one size."""

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = True,
    ) -> None:
        """Fix the geometry.

        Args:
            output_size: ``(height, width)`` of each crop, or the side of a square.
            spatial_scale: factor from box coordinates to cells of the map (1 / stride).
            sampling_ratio: samples per bin and axis; 0 takes as many as the box is large.
            aligned: whether a cell's value stands at its centre, half a cell from its corner.
                ``False`` is Detectron's first convention; torchvision defaults to it.
        """
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Crop.

        Args:
            input: ``(N, C, H, W)``.
            rois: ``(R, 5)``, rows ``(index into N, x1, y1, x2, y2)`` in input pixels.

        Returns:
            ``(R, C, height, width)``.

        Raises:
            ValueError: ``rois`` has not five columns.
        """
        if rois.dim() != 2 or rois.size(1) != 5:
            raise ValueError(
                f"rois: expected shape (R, 5) with the image's index first, got {tuple(rois.shape)}"
            )
        # Half precision cannot hold coordinates: bfloat16 knows every fourth pixel beyond 512.
        dtype = torch.promote_types(input.dtype, torch.float32)
        crops = roi_align(
            input.to(dtype),
            rois.to(dtype),
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
        )
        return crops.to(input.dtype)

    def extra_repr(self) -> str:
        """Show the geometry in ``print(model)``."""
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )
