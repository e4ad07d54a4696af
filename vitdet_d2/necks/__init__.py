# SPDX-License-Identifier: Apache-2.0
"""Necks: modules that turn the maps of a backbone into a feature pyramid."""

from vitdet_d2.necks.last_map_fpn import LastMapFPN
from vitdet_d2.necks.multi_tap_fpn import MultiTapFPN
from vitdet_d2.necks.simple_feature_pyramid import SimpleFeaturePyramid

__all__ = ["LastMapFPN", "MultiTapFPN", "SimpleFeaturePyramid"]
