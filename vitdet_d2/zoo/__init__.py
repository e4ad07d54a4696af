# SPDX-License-Identifier: Apache-2.0
"""Recipes and released checkpoints by name."""
