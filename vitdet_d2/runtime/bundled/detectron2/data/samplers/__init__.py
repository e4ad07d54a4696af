# SPDX-License-Identifier: Apache-2.0
"""Orders in which a data set is visited."""

from __future__ import annotations

from detectron2.data.samplers.distributed_sampler import (
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.data.samplers.grouped_batch_sampler import GroupedBatchSampler

from vitdet_d2.runtime.absent import absent_attribute

__all__ = [
    "GroupedBatchSampler",
    "InferenceSampler",
    "RandomSubsetTrainingSampler",
    "RepeatFactorTrainingSampler",
    "TrainingSampler",
]

__getattr__ = absent_attribute(__name__)
