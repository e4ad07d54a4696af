# SPDX-License-Identifier: Apache-2.0
"""Which annotation a detection is counted for, at all thresholds and ranges of area at once.

Shapes: A ranges of area, T IoU thresholds, D detections, best score first, G annotations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def match(ious: Array, ignored: Array, thresholds: Array) -> Array:
    """Give each detection in turn the free annotation that it overlaps most.

    One that counts goes before any that is ignored; of equally good ones the last is taken.

    Args:
        ious: ``(D, G)``, G >= 1.
        ignored: ``(A, G)``, whether an annotation is outside of the range.
        thresholds: ``(T,)``, the least overlap that counts, in rising order.

    Returns:
        ``(A, T, D)`` the annotation, or -1.

    Source: the matching of pycocotools and lvis 0.5.3, without crowds.
    """
    num_detections, num_truths = ious.shape
    shape = (len(ignored), len(thresholds))
    matched = np.full((*shape, num_detections), -1)
    free = np.ones((*shape, num_truths), bool)
    counts = ~ignored[:, None, :]
    at_area, at_threshold = np.indices(shape)
    # Most detections overlap nothing well enough for any threshold.
    for d in np.flatnonzero(ious.max(axis=1) >= thresholds[0]):
        fits = free & (ious[d] >= thresholds[:, None])
        fits_counted = fits & counts
        fits = np.where(fits_counted.any(axis=2, keepdims=True), fits_counted, fits)
        # Backwards, because argmax takes the first of equals. A fit is above 0, all else is 0.
        best = num_truths - 1 - np.where(fits, ious[d], 0)[:, :, ::-1].argmax(axis=2)
        found = fits.any(axis=2)
        matched[:, :, d] = np.where(found, best, -1)
        free[at_area[found], at_threshold[found], best[found]] = False
    return matched
