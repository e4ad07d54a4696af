# SPDX-License-Identifier: Apache-2.0
"""Settings of the training loop; Detectron2's defaults, apart from mixed precision and device."""

train = {
    "output_dir": "./output",
    "init_checkpoint": "",
    "init_options": {
        "source": None,  # by the keys of the file, or by its name
        "layer_scale": "auto",
        "patch_resize": "pinv",
        "position_grid": None,  # a square
        "absent_positions": "zeros",
        "allow_partial": False,
        "normalisation": "source",
    },
    "max_iter": 90000,
    "amp": {"enabled": True, "dtype": "bf16"},  # switched off on the CPU
    "ddp": {
        "broadcast_buffers": False,
        "find_unused_parameters": False,
        "fp16_compression": False,
    },
    "fsdp": {
        "enabled": False,
        "shard_size": None,  # processes that share one copy of the weights; null: all
        "reshard_after_forward": True,
        "param_dtype": None,  # bf16: gathered in half precision
        "checkpoints": "whole",  # or sharded
    },
    "checkpointer": {"period": 5000, "max_to_keep": 100},
    "eval_period": 5000,
    "log_period": 20,
    "device": "auto",
    "seed": -1,  # negative: drawn at the start
    "global_batch": None,  # scales the recipe to another batch size
    "accumulate": 1,  # loader batches per iteration
    "clip_grad": {"max_norm": None},
    "ema": {"decay": None},
    "freeze_blocks": 0,
    "activation_checkpointing": False,
    "compile": False,
    "cuda_graphs": False,
    "inference_dtype": "auto",  # bf16 on a GPU, fp32 on the CPU
    "best_metric": None,  # such as bbox/AP
    "epochs": None,  # passes over the training images, in place of max_iter
    "warmup_epochs": None,
    "memory_strategy": None,  # full, windowed, hybrid or checkpointed
}
