# SPDX-License-Identifier: Apache-2.0
"""The command line as one process of torchrun; a job for the zygote of the engine tests."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from vitdet_d2.engine.cli import main_train


def run(argv: Sequence[str], rank: int, world_size: int, port: int) -> None:
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size}
    os.environ.update({name: str(value) for name, value in values.items()})
    os.environ["LOCAL_WORLD_SIZE"] = str(world_size)
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    logging.getLogger("vitdet_d2").handlers.clear()  # those of the zygote's own run
    code = main_train(argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
