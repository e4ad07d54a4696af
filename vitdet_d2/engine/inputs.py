# SPDX-License-Identifier: Apache-2.0
"""What training and evaluation need from outside, checked in the order of what it costs."""

from __future__ import annotations

from omegaconf import DictConfig

from vitdet_d2.data import prepare
from vitdet_d2.pretrained import require_weights


def prepare_inputs(cfg: DictConfig, weights: str, *, training: bool) -> prepare.DatasetInfo:
    """Check local weights and names, then the data, and only then download weights.

    Args:
        cfg: the recipe with all overrides; changed in place, see `prepare_datasets`.
        weights: path, address or name; empty: none are needed.
        training: as of `prepare_datasets`.

    Returns:
        Names and classes of the data sets.

    Raises:
        DataError: the data cannot be used.
        DownloadError: the weights cannot be downloaded now.
        RecipeError: the weights are for a backbone that is not here.
        WeightsError: there are no such weights.
    """
    if weights:
        require_weights(weights, download=False)
    info = prepare.prepare_datasets(cfg, training=training)
    if weights:
        require_weights(weights, download=True)
    return info
