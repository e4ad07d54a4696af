# SPDX-License-Identifier: Apache-2.0
"""Comparisons with an installed Detectron2."""
