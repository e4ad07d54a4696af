# SPDX-License-Identifier: Apache-2.0
"""What most training scripts set up: arguments, logging, seeds, writers, data parallelism.

Source: the behaviour of Detectron2's `detectron2/engine/defaults.py` (commit 02b5c4e).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import Any

import torch
from detectron2.config import CfgNode, LazyConfig
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
)
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = [
    "DefaultPredictor",  # noqa: F822  (lazy)
    "DefaultTrainer",  # noqa: F822  (lazy)
    "create_ddp_model",
    "default_argument_parser",
    "default_setup",
    "default_writers",
]

# Ports that no service may claim (RFC 6335, section 6).
_DYNAMIC_PORTS = range(49152, 65536)

_EPILOG = """
Examples:
  one machine:        {prog} --num-gpus 8 --config-file recipe.py
  change a setting:   {prog} --config-file recipe.py train.max_iter=1000
  several machines:   {prog} --machine-rank 0 --num-machines 2 --dist-url tcp://HOST:PORT ...
"""


def create_ddp_model(
    model: nn.Module, *, fp16_compression: bool = False, **kwargs: Any
) -> nn.Module:
    """Wrap the model for data parallelism where there is more than one process.

    Args:
        model: on its device.
        fp16_compression: exchange gradients in half precision.
        kwargs: arguments of `DistributedDataParallel`; `device_ids` defaults to the local rank's
            GPU, and to None for a model on the CPU.
    """
    if comm.get_world_size() == 1:
        return model
    if "device_ids" not in kwargs:
        on_cpu = all(p.device.type == "cpu" for p in model.parameters())
        kwargs["device_ids"] = None if on_cpu else [comm.get_local_rank()]
    parallel = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

        parallel.register_comm_hook(state=None, hook=fp16_compress_hook)
    return parallel


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """A parser of the arguments that Detectron2 users know.

    Args:
        epilog: text after the options; examples by default.
    """
    parser = argparse.ArgumentParser(
        epilog=epilog or _EPILOG.format(prog=sys.argv[0]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="the recipe")
    parser.add_argument(
        "--resume", action="store_true", help="continue from the output folder's last checkpoint"
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs per machine")
    parser.add_argument("--num-machines", type=int, default=1, help="machines in the job")
    parser.add_argument("--machine-rank", type=int, default=0, help="which of them this is, from 0")
    parser.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{_port_of_user()}",
        help="where the processes meet",
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, default=None, help="settings to change, as key=value"
    )
    return parser


def _port_of_user() -> int:
    """A port that is the same every time, so that a left-over process is noticed."""
    user = os.getuid() if hasattr(os, "getuid") else 1
    return _DYNAMIC_PORTS[user % len(_DYNAMIC_PORTS)]


def _first_of(cfg: DictConfig | CfgNode, *keys: str, default: Any) -> Any:
    for key in keys:
        # A yacs tree has these keys at its top only.
        value = cfg.get(key) if isinstance(cfg, CfgNode) else OmegaConf.select(cfg, key)
        if value is not None:
            return value
    return default


def default_setup(cfg: DictConfig | CfgNode, args: argparse.Namespace) -> None:
    """Start logging, log the environment and the configuration, save it, seed this process.

    Args:
        cfg: a LazyConfig recipe, or a yacs configuration.
        args: the parsed arguments, which are logged.

    Raises:
        TypeError: `cfg` is neither.
    """
    if not isinstance(cfg, DictConfig | CfgNode):
        raise TypeError(
            f"cfg: expected a LazyConfig recipe or a yacs CfgNode, got {type(cfg).__name__}"
        )
    output_dir = _first_of(cfg, "OUTPUT_DIR", "output_dir", "train.output_dir", default="")
    rank = comm.get_rank()
    if rank == 0 and output_dir:
        PathManager.mkdirs(output_dir)
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir, distributed_rank=rank)
    logger.info("Rank %d of %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", collect_env_info())
    logger.info("Command line arguments: %s", args)
    if getattr(args, "config_file", ""):
        with PathManager.open(args.config_file, "r") as file:
            logger.info("Contents of %s:\n%s", args.config_file, file.read())
    if rank == 0 and output_dir:
        path = os.path.join(output_dir, "config.yaml")
        if isinstance(cfg, CfgNode):
            logger.info("Full config:\n%s", cfg.dump())
            with PathManager.open(path, "w") as file:
                file.write(cfg.dump())
        else:
            LazyConfig.save(cfg, path)
        logger.info("Full config saved to %s", path)
    _set_process_state(cfg, args, logger)


def _set_process_state(
    cfg: DictConfig | CfgNode, args: argparse.Namespace, logger: logging.Logger
) -> None:
    """Seed the generators and set the global switches that the recipe names."""
    seed = _first_of(cfg, "SEED", "train.seed", default=-1)
    seed_all_rng(None if seed < 0 else seed + comm.get_rank())
    if not getattr(args, "eval_only", False):
        benchmark = _first_of(cfg, "CUDNN_BENCHMARK", "train.cudnn_benchmark", default=False)
        torch.backends.cudnn.benchmark = benchmark
    precision = _first_of(cfg, "FLOAT32_PRECISION", "train.float32_precision", default="")
    if precision and torch.cuda.is_available():
        logger.info("float32 matrix products in precision '%s'", precision)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """The log, ``metrics.json`` and TensorBoard.

    Args:
        output_dir: folder of the files, made if need be.
        max_iter: the run's length, for the ETA.
    """
    PathManager.mkdirs(output_dir)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]


def __getattr__(name: str) -> Any:
    # Both stand on this module, whose name is their address in Detectron2.
    if name == "DefaultTrainer":
        from detectron2.engine.default_trainer import DefaultTrainer

        return DefaultTrainer
    if name == "DefaultPredictor":
        from detectron2.engine.default_predictor import DefaultPredictor

        return DefaultPredictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
