# SPDX-License-Identifier: Apache-2.0
"""fvcore's crop, with polygons clipped in numpy; the original needs shapely for that."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from fvcore.transforms import transform

from vitdet_d2.geometry.polygon_clip import clip_polygon

Array = npt.NDArray[Any]


class CropTransform(transform.CropTransform):
    """Cut a window out of an image; polygons are clipped without shapely.

    A polygon that crosses itself keeps all the area that the even-odd rule fills, where fvcore's
    own class keeps what shapely's ``buffer(0)`` leaves of it.
    """

    def apply_polygons(self, polygons: list[Array]) -> list[Array]:
        """Clip each polygon with the window.

        Args:
            polygons: each ``(N, 2)``, in the coordinates of the whole image.

        Returns:
            Each ``(M, 2)``, in the window's coordinates; one polygon may give none or several.
        """
        window = (self.x0, self.y0, self.x0 + self.w, self.y0 + self.h)
        pieces = [piece for polygon in polygons for piece in clip_polygon(polygon, window)]
        return [piece - (self.x0, self.y0) for piece in pieces]
