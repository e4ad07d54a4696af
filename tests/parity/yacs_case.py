# SPDX-License-Identifier: Apache-2.0
"""What yacs configurations give in whichever Detectron2 is active.

    VITDET_D2_RUNTIME=bundled python -m tests.parity.yacs_case FOLDER CONFIGS

writes ``FOLDER/result.pt``: the default keys, all YAML files in CONFIGS merged, models built from
several configurations, optimizers, schedules, loaders, and a training with the script of
docs/yacs.md.
"""

from __future__ import annotations

import re
import runpy
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import vitdet_d2  # isort: skip  (decides which Detectron2 this process uses)
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import nn

from tests import closed_form
from tests.yacs_run import NAME, OVERRIDES, last_metrics, registered_toys
from vitdet_d2.backbones import add_vitdet_config

assert vitdet_d2.__version__, "the package under test has no version"

DOCUMENT = Path(__file__).parents[2] / "docs/yacs.md"

# Changes to the documented file, made small.
MODELS: dict[str, str] = {
    "mask_rcnn": "",
    "faster_rcnn": "MODEL.MASK_ON False MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE giou",
    "agnostic": """MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True MODEL.ROI_BOX_HEAD.NUM_CONV 0
        MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK True MODEL.ROI_MASK_HEAD.NORM ''
        MODEL.RPN.CONV_DIMS [8] MODEL.RPN.SMOOTH_L1_BETA 0.1 MODEL.RPN.LOSS_WEIGHT 2.0
        MODEL.RPN.BBOX_REG_LOSS_WEIGHT 3.0 MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT 5.0
        MODEL.ANCHOR_GENERATOR.OFFSET 0.5 MODEL.ANCHOR_GENERATOR.SIZES [[8,16]]""",
    "cascade": """MODEL.ROI_HEADS.NAME CascadeROIHeads
        MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True""",
    "pred_boxes": """MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES True
        MODEL.ROI_HEADS.PROPOSAL_APPEND_GT False MODEL.ROI_MASK_HEAD.POOLER_TYPE ROIAlign
        MODEL.PROPOSAL_GENERATOR.MIN_SIZE 4""",
    "proposals": "MODEL.META_ARCHITECTURE ProposalNetwork",
    "retinanet": """MODEL.META_ARCHITECTURE RetinaNet MODEL.RETINANET.NUM_CLASSES 2
        MODEL.RETINANET.IN_FEATURES ['p3','p4','p5'] MODEL.ANCHOR_GENERATOR.SIZES [[8,16,32]]
        MODEL.RETINANET.NUM_CONVS 2 MODEL.RETINANET.NORM LN MODEL.RETINANET.PRIOR_PROB 0.1
        MODEL.RETINANET.BBOX_REG_LOSS_TYPE giou MODEL.RETINANET.SCORE_THRESH_TEST 0.0
        MODEL.RETINANET.IOU_THRESHOLDS [0.3,0.6] MODEL.RETINANET.FOCAL_LOSS_GAMMA 1.5
        MODEL.RETINANET.BBOX_REG_WEIGHTS (1.0,1.0,2.0,2.0) TEST.DETECTIONS_PER_IMAGE 120""",
    "one_map": """MODEL.BACKBONE.NAME build_vit_backbone MODEL.VIT.OUT_BLOCK_INDEXES (0,)
        MODEL.RPN.IN_FEATURES ['last_feat'] MODEL.ROI_HEADS.IN_FEATURES ['stage1']
        MODEL.ANCHOR_GENERATOR.SIZES [[8,16,32]] INPUT.FORMAT BGR""",
}

SCHEDULES = (
    "",
    "SOLVER.LR_SCHEDULER_NAME WarmupCosineLR SOLVER.BASE_LR_END 1e-5 SOLVER.WARMUP_ITERS 5",
    """SOLVER.LR_SCHEDULER_NAME WarmupStepWithFixedGammaLR SOLVER.NUM_DECAYS 2 SOLVER.WARMUP_ITERS 4
        SOLVER.RESCALE_INTERVAL True SOLVER.WARMUP_METHOD constant""",
)


def block(language: str) -> str:
    """Return the first code block of the document in a language."""
    found = re.search(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert found, language
    return found[1]


def configuration(folder: Path, changes: str) -> CfgNode:
    cfg = get_cfg()
    add_vitdet_config(cfg)
    path = folder / "documented.yaml"
    path.write_text(block("yaml"))
    cfg.merge_from_file(str(path))
    cfg.merge_from_list([*OVERRIDES, *changes.split()])
    return cfg


def describe(results: Any) -> list[dict[str, Any]]:
    """Return the fields of every image's instances as tensors."""
    found = []
    for result in results:
        (instances,) = result.values()
        fields = instances.get_fields().items()
        found.append({name: getattr(value, "tensor", value) for name, value in fields})
    return found


def run_model(cfg: CfgNode) -> dict[str, Any]:
    """Run a model with closed-form weights in both modes."""
    model: Any = build_model(cfg)
    closed_form.fill_(model)
    seed_all_rng(11)  # augmentations
    batch = next(iter(build_detection_train_loader(cfg)))
    with EventStorage():
        torch.manual_seed(3)
        losses = model(batch)
    model.eval()
    with torch.no_grad():
        found = [model(x)[0] for x in build_detection_test_loader(cfg, NAME)]
    return {
        "shapes": {name: tuple(value.shape) for name, value in model.state_dict().items()},
        "losses": {name: float(value) for name, value in losses.items()},
        "found": describe(found),
    }


def run_solver(cfg: CfgNode) -> dict[str, Any]:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    for _ in range(cfg.SOLVER.MAX_ITER - 1):
        optimizer.step()
        scheduler.step()
        rates.append([group["lr"] for group in optimizer.param_groups])
    groups = [
        {k: len(v) if k == "params" else v for k, v in group.items()}
        for group in optimizer.param_groups
    ]
    clipped = sorted({float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None})
    return {
        "type": type(optimizer).__name__,
        "groups": groups,
        "rates": rates,
        "gradients": clipped,
    }


def run_script(folder: Path) -> dict[str, Any]:
    """Train with the documented script; return the last metrics and the final weights."""
    script, file, out = folder / "train_yacs.py", folder / "vitdet_b.yaml", folder / "out"
    script.write_text(block("python"))
    file.write_text(block("yaml"))
    sys.argv = [str(script), "--config-file", str(file), "--num-gpus", "0", *OVERRIDES]
    sys.argv += ["OUTPUT_DIR", str(out)]
    runpy.run_path(str(script), run_name="__main__")
    checkpoint = torch.load(out / "model_final.pth", weights_only=False)
    groups = checkpoint["trainer"]["_trainer"]["optimizer"]["param_groups"]
    return {
        "metrics": last_metrics(out),
        "weights": checkpoint["model"],
        "rates": [group["lr"] for group in groups],
        "iteration": checkpoint["iteration"],
    }


def merge_files(folder: Path) -> dict[str, dict[str, str]]:
    """Return all keys after each file is merged; nothing of a folder without files."""
    found = {}
    for path in sorted(folder.rglob("*.yaml")):
        cfg = get_cfg()
        cfg.merge_from_file(str(path))
        found[path.relative_to(folder).as_posix()] = {k: repr(v) for k, v in leaves(cfg).items()}
    return found


def main(folder: Path, configs: Path) -> None:
    torch.use_deterministic_algorithms(True)
    with registered_toys(folder):
        loader_cfg = configuration(folder, "DATALOADER.ASPECT_RATIO_GROUPING False SEED 7")
        solver = "SOLVER.MAX_ITER 20 SOLVER.STEPS (8,15) SOLVER.BIAS_LR_FACTOR 2.0 "
        solver += "SOLVER.CLIP_GRADIENTS.ENABLED True "
        result = {
            "defaults": {k: repr(v) for k, v in leaves(get_cfg()).items()},
            "files": merge_files(configs),
            "models": {
                name: run_model(configuration(folder, changes)) for name, changes in MODELS.items()
            },
            "solvers": [run_solver(configuration(folder, solver + s)) for s in SCHEDULES],
            "order": [
                [x["image_id"] for x in batch]
                for batch in islice(build_detection_train_loader(loader_cfg), 6)
            ],
            "script": run_script(folder),
        }
    torch.save(result, folder / "result.pt")


def leaves(cfg: CfgNode, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in cfg.items():
        name = f"{prefix}{key}"
        found.update(leaves(value, f"{name}.") if isinstance(value, CfgNode) else {name: value})
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
