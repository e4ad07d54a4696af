# SPDX-License-Identifier: Apache-2.0
"""What optimizer, schedule, evaluation and the run itself read."""

from __future__ import annotations

from typing import Any

SOLVER: dict[str, Any] = {
    "IMS_PER_BATCH": 16,  # over all processes
    # Not 0: DefaultTrainer scales batch, rate and lengths from this number of processes to ours.
    "REFERENCE_WORLD_SIZE": 0,
    "MAX_ITER": 40000,
    "CHECKPOINT_PERIOD": 5000,
    # SGD
    "BASE_LR": 0.001,
    "MOMENTUM": 0.9,
    "NESTEROV": False,
    "WEIGHT_DECAY": 0.0001,
    "WEIGHT_DECAY_NORM": 0.0,  # of normalisation layers
    "WEIGHT_DECAY_BIAS": None,  # None: as the weights
    "BIAS_LR_FACTOR": 1.0,
    # Schedule
    "LR_SCHEDULER_NAME": "WarmupMultiStepLR",  # WarmupCosineLR, WarmupStepWithFixedGammaLR
    "STEPS": (30000,),
    "GAMMA": 0.1,
    "NUM_DECAYS": 3,  # of WarmupStepWithFixedGammaLR
    "BASE_LR_END": 0.0,  # of WarmupCosineLR
    "WARMUP_FACTOR": 1e-3,
    "WARMUP_ITERS": 1000,
    "WARMUP_METHOD": "linear",  # or "constant"
    "RESCALE_INTERVAL": False,  # squeeze the schedule into what the warm-up leaves
    # Each parameter's gradient by itself: "value" cuts its elements, "norm" its L-p norm.
    "CLIP_GRADIENTS": {
        "ENABLED": False,
        "CLIP_TYPE": "value",
        "CLIP_VALUE": 1.0,
        "NORM_TYPE": 2.0,
    },
    "AMP": {"ENABLED": False},  # mixed precision, in training only
}

TEST: dict[str, Any] = {
    "EVAL_PERIOD": 0,  # iterations; 0: at the end only
    "EXPECTED_RESULTS": [],  # (task, metric, value, tolerance) of a self-check
    "DETECTIONS_PER_IMAGE": 100,  # COCO's limit
    "PRECISE_BN": {"ENABLED": False, "NUM_ITER": 200},  # not bundled
    # Test-time augmentation (not bundled).
    "AUG": {
        "ENABLED": False,
        "MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),
        "MAX_SIZE": 4000,
        "FLIP": True,
    },
    "KEYPOINT_OKS_SIGMAS": [],  # not bundled
}

RUN: dict[str, Any] = {
    "OUTPUT_DIR": "./output",
    "SEED": -1,  # negative: drawn anew for every run, except for the order of the data
    "CUDNN_BENCHMARK": False,
    "FLOAT32_PRECISION": "",  # "highest", "high", "medium"; empty: torch's own
    "VIS_PERIOD": 0,  # iterations between training pictures; 0: none
    "GLOBAL": {"HACK": 1.0},  # for experiments through global_cfg
}
