# SPDX-License-Identifier: Apache-2.0
"""Assignment of predictions to ground truth by their overlap.

Shapes: ``M`` ground-truth elements, ``N`` predictions.
Labels: 1 positive, 0 negative, -1 ignored.

Source: Faster R-CNN, arXiv 1506.01497, section 3.1.2; equals detectron2 ``matcher.py``.
"""

# torch.jit.script compiles no generator expressions, no unpacking and no strict zip.
# ruff: noqa: C419, RUF005, RUF007, B905

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Matcher"]


class Matcher:
    """Give every prediction its best ground-truth element and a label from the match quality.

    Written in the part of Python that ``torch.jit.script`` compiles.
    """

    def __init__(
        self,
        thresholds: list[float],
        labels: list[int],
        allow_low_quality_matches: bool = False,
    ) -> None:
        """Store the intervals of quality and the label of each.

        Args:
            thresholds: rising positive borders between the intervals; a quality equal to a border
                belongs to the interval above it.
            labels: one more than ``thresholds``, each -1, 0 or 1, from the lowest interval up.
            allow_low_quality_matches: label 1 also for the predictions (ties included) that are
                the best of any ground-truth element, however low the quality.

        Raises:
            ValueError: borders that do not rise from above 0, or labels that do not fit them.
        """
        borders = [-math.inf] + list(thresholds) + [math.inf]
        falls = any([low > high for low, high in zip(borders[:-1], borders[1:])])
        if len(borders) < 3 or borders[1] <= 0 or falls:
            raise ValueError(f"thresholds: expected rising values above 0, got {list(thresholds)}")
        known = all([label in [-1, 0, 1] for label in labels])
        if len(labels) != len(borders) - 1 or not known:
            raise ValueError(
                f"labels: expected {len(borders) - 1} values, each -1, 0 or 1, got {list(labels)}"
            )
        self.thresholds = borders
        self.labels = list(labels)
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, match_quality_matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Match predictions with ground truth.

        Nothing here waits for an accelerator.

        Args:
            match_quality_matrix: ``(M, N)``, for example pairwise IoU, every value >= 0.

        Returns:
            ``(N,)`` int64 index of the best ground-truth element (0 where there is none), and
            ``(N,)`` int8 label.

        Raises:
            ValueError: the matrix is not two-dimensional.
        """
        if match_quality_matrix.dim() != 2:
            raise ValueError(
                "match_quality_matrix: expected shape (M, N), "
                f"got {list(match_quality_matrix.shape)}"
            )
        num_predictions = match_quality_matrix.shape[1]
        labels = match_quality_matrix.new_full((num_predictions,), self.labels[0], dtype=torch.int8)
        if match_quality_matrix.numel() == 0:
            return labels.long().zero_(), labels

        quality, matches = match_quality_matrix.max(dim=0)
        for border, label in zip(self.thresholds[1:-1], self.labels[1:]):
            labels.masked_fill_(quality >= border, label)
        if self.allow_low_quality_matches:
            self.set_low_quality_matches_(labels, match_quality_matrix)
        return matches, labels

    def set_low_quality_matches_(self, match_labels: Tensor, match_quality_matrix: Tensor) -> None:
        """Label as positive, in place, the best predictions of every ground-truth element.

        Only the label changes: a prediction stays matched to the element that it overlaps most,
        which may be another one than the element that made it positive.

        Args:
            match_labels: ``(N,)``, changed in place.
            match_quality_matrix: ``(M, N)``.
        """
        best = match_quality_matrix.amax(dim=1, keepdim=True)
        match_labels.masked_fill_((match_quality_matrix == best).any(dim=0), 1)
