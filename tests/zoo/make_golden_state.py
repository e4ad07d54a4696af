# SPDX-License-Identifier: Apache-2.0
"""Write ``golden_state.json.gz``: names and shapes of the 22 released models of Detectron2.

    VITDET_D2_RUNTIME=installed python -m tests.zoo.make_golden_state DETECTRON2/projects/ViTDet

Builds the model of every official recipe on the meta device and lists its ``state_dict()``, which
is what a checkpoint under its name holds.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import vitdet_d2  # isort: skip  (decides which Detectron2 this process uses)
import detectron2
import torch
from detectron2.config import LazyConfig, instantiate

from vitdet_d2 import runtime
from vitdet_d2.zoo import RELEASED

SOURCE = f"facebookresearch/detectron2 02b5c4e ({detectron2.__version__}), torch 2.15"


def main() -> None:
    assert runtime.current().name == "installed", vitdet_d2.__version__
    linspace = torch.linspace

    def on_cpu(*args: Any, **kwargs: Any) -> Any:
        # The drop rates are read as numbers, which the meta device has not.
        return linspace(*args, **{**kwargs, "device": "cpu"})

    torch.linspace = on_cpu  # type: ignore[assignment]
    states = {}
    for entry in RELEASED:
        cfg = LazyConfig.load(f"{sys.argv[1]}/configs/{entry.aliases[1]}.py")
        # It needs another package, which replaces methods and changes no name.
        cfg.model.backbone.get("bottom_up", {}).pop("use_act_checkpoint", None)
        with torch.device("meta"):
            state = instantiate(cfg.model).state_dict()
        states[entry.name] = {
            name: [*value.shape, str(value.dtype).removeprefix("torch.")]
            for name, value in state.items()
        }
        print(entry.name, len(state))
    golden = json.dumps({"source": SOURCE, "states": states}, separators=(",", ":"))
    target = Path(__file__).with_name("golden_state.json.gz")
    # No time in the file, so that it is the same whenever it is made.
    target.write_bytes(gzip.compress(golden.encode(), mtime=0))


if __name__ == "__main__":
    main()
