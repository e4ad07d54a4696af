# SPDX-License-Identifier: Apache-2.0
"""How a run goes: folders, length, periods. Values of Detectron2's ``common/train.py``."""

from __future__ import annotations

train = {
    "output_dir": "./output",
    "init_checkpoint": "",
    "max_iter": 90000,
    "amp": {"enabled": False},
    "ddp": {
        "broadcast_buffers": False,
        "find_unused_parameters": False,
        "fp16_compression": False,
    },
    "checkpointer": {"period": 5000, "max_to_keep": 100},
    "eval_period": 5000,  # iterations
    "log_period": 20,  # iterations
    "device": "cuda",
}
