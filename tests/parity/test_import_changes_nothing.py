# SPDX-License-Identifier: Apache-2.0
"""Importing us leaves an installed Detectron2, and the process, as they were."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitdet_d2 import runtime

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(
        runtime.current().name != "installed", reason="Detectron2 is not installed (or not chosen)"
    ),
]

CODE = """
import builtins, importlib, json, locale, logging, os, pkgutil, signal, sys, threading, warnings
import torch
import detectron2
for info in pkgutil.walk_packages(detectron2.__path__, "detectron2."):
    if info.name.split(".")[1] not in ("export", "projects", "model_zoo"):
        try:
            importlib.import_module(info.name)
        except Exception:
            pass  # compiled or optional parts
# What our modules import anyway, and Detectron2 does not.
import torch.distributed.checkpoint.state_dict, torchvision, tqdm
from fvcore.common.registry import Registry

def attributes(module):
    # Submodules of other packages appear when anyone imports them.
    return {k: id(v) for k, v in vars(module).items() if not k.startswith("__warning")}

def logger_state(logger):
    return [logger.level, logger.propagate, logger.disabled, [repr(h) for h in logger.handlers],
            [repr(f) for f in logger.filters]]

def snapshot():
    modules = {n: m for n, m in sys.modules.items() if n.split(".")[0] == "detectron2"}
    classes = {f"{n}.{k}": {a: id(w) for a, w in vars(v).items()} for n, m in modules.items()
               for k, v in vars(m).items() if isinstance(v, type) and v.__module__ == n}
    registries = {f"{n}.{k}": {name: id(obj) for name, obj in v} for n, m in modules.items()
                  for k, v in vars(m).items() if isinstance(v, Registry)}
    names = ["", "detectron2", "fvcore", "iopath", "d2", "torch", "py.warnings"]
    return {
        "modules": {n: attributes(m) for n, m in modules.items()},
        "classes": classes,
        "registries": registries,
        "data sets": sorted(sys.modules["detectron2.data"].DatasetCatalog.list()),
        "path": list(sys.path),
        "finders": [id(f) for f in sys.meta_path],
        "path hooks": [id(f) for f in sys.path_hooks],
        "builtins": attributes(builtins),
        "warnings": [repr(f) for f in warnings.filters] + [id(warnings.showwarning)],
        "logging": {n: logger_state(logging.getLogger(n)) for n in names}
                   | {"rest": [id(logging.getLoggerClass()), logging.root.manager.disable]},
        "environment": dict(os.environ),
        "signals": {s.name: repr(signal.getsignal(s)) for s in signal.Signals},
        "hooks": [id(sys.excepthook), id(sys.displayhook), id(threading.excepthook)],
        "threads": threading.active_count(),
        "folder": os.getcwd(),
        "recursion": sys.getrecursionlimit(),
        "locale": locale.setlocale(locale.LC_ALL),
        "torch": {
            "dtype": str(torch.get_default_dtype()),
            "device": str(torch.get_default_device()),
            "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "grad": torch.is_grad_enabled(),
            "anomaly": torch.is_anomaly_enabled(),
            "matmul": [torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32],
            "cudnn": [torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic,
                      torch.backends.cudnn.allow_tf32, torch.backends.cudnn.enabled],
            "attention": [torch.backends.cuda.flash_sdp_enabled(),
                          torch.backends.cuda.math_sdp_enabled()],
            "sharing": torch.multiprocessing.get_sharing_strategy(),
            "random": torch.get_rng_state().tolist(),
            "functions": {n: id(f) for n, f in vars(torch.nn.functional).items()},
            "load": id(torch.load),
        },
    }

before = snapshot()
IMPORTS
after = snapshot()
changed = {}
for part in before:
    a, b = before[part], after[part]
    if a != b:
        changed[part] = (sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))
                         if isinstance(a, dict) else [repr(a), repr(b)])
names = "detectron2.modeling.backbone.build.BACKBONE_REGISTRY"
new = sorted(after["registries"][names].keys() - before["registries"][names].keys())
print("RESULT", json.dumps({"changed": changed, "new": new, "where": detectron2.__file__}))
"""


def changes(imports: str) -> dict[str, object]:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE.replace("IMPORTS", imports)],
        env={**os.environ, "VITDET_D2_RUNTIME": ""},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    (line,) = [x for x in result.stdout.splitlines() if x.startswith("RESULT ")]
    found = json.loads(line.removeprefix("RESULT "))
    assert "vitdet_d2" not in Path(found["where"]).parts
    return found


def test_importing_the_package_changes_nothing() -> None:
    found = changes("import vitdet_d2; assert 'vitdet_d2.backbones' not in sys.modules")
    assert (found["changed"], found["new"]) == ({}, [])


def test_importing_every_module_registers_our_builders_and_changes_nothing_else() -> None:
    found = changes(
        "import vitdet_d2\n"
        "for info in pkgutil.walk_packages(vitdet_d2.__path__, 'vitdet_d2.'):\n"
        "    if not info.name.startswith(('vitdet_d2.runtime.bundled', 'vitdet_d2.__main__')):\n"
        "        try:\n"
        "            importlib.import_module(info.name)\n"
        "        except ModuleNotFoundError as error:\n"
        "            assert error.name == 'cv2', error  # Detectron2's own visualizer needs it\n"
    )
    assert found["new"] == [
        "build_pvt_backbone",
        "build_pvt_fpn_backbone",
        "build_timm_backbone",
        "build_timm_fpn_backbone",
        "build_vit_backbone",
        "build_vit_simple_feature_pyramid_backbone",
    ]
    changed = dict(found["changed"])  # type: ignore[call-overload]
    registries = changed.pop("registries")
    assert all(name.endswith(".BACKBONE_REGISTRY") for name in registries)
    assert changed == {}


def test_a_change_would_be_found() -> None:
    found = changes(
        "import vitdet_d2, detectron2.layers\n"
        "detectron2.layers.cat = None\n"
        "torch.backends.cudnn.benchmark = True\n"
        "sys.path.append('x')\n"
        "warnings.simplefilter('error')\n"
        "logging.getLogger('detectron2').setLevel(1)\n"
        "import_ = builtins.__import__\n"
        "builtins.__import__ = lambda *a, **k: import_(*a, **k)"
    )
    assert found["changed"].keys() == {  # type: ignore[attr-defined]
        "modules",
        "torch",
        "path",
        "warnings",
        "logging",
        "builtins",
    }
