# SPDX-License-Identifier: Apache-2.0
"""Made-up and own data, translation to Detectron2's parts, and rows that are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import SimpleFeaturePyramid, ViT
from detectron2.structures import Boxes, Instances

from tests.analysis.bench.sides import TINY, coco_folder, tiny
from vitdet_d2.analysis.bench.case import Case
from vitdet_d2.analysis.bench.models import build, recipe_of, write_weights
from vitdet_d2.analysis.bench.outcome import CaseOutcome, SideOutcome
from vitdet_d2.analysis.bench.pictures import records
from vitdet_d2.analysis.bench.report import markdown
from vitdet_d2.analysis.bench.rows import NO_GPU, Wanted, rows
from vitdet_d2.analysis.bench.training import give_good_proposals
from vitdet_d2.analysis.bench.translate import resolved, to_detectron2
from vitdet_d2.errors import DataError


def wanted(**changes) -> Wanted:
    values = {
        "axes": ("training", "inference", "backbone", "loader", "masks", "evaluation", "syncs"),
        "models": ("b", "l"),
        "device": "auto",
        "image_size": None,
        "batches": None,
        "precisions": None,
        "template": Case(axis="training"),
    }
    return Wanted(**{**values, **changes})


def test_own_data_without_crowds_and_empty_images(tmp_path: Path):
    (record,) = records(tmp_path, str(coco_folder(tmp_path / "coco")))
    assert record["image_id"] == 5
    assert [a["category_id"] for a in record["annotations"]] == [1]
    with pytest.raises(DataError, match="instances_train2017"):
        records(tmp_path, str(tmp_path))


def test_made_up_data_is_the_same_every_time(tmp_path: Path):
    first, second = records(tmp_path, None), records(tmp_path, None)
    assert first == second
    assert all(Path(record["file_name"]).is_file() for record in first)


def test_translation_names_parts_of_detectron2_only():
    cfg = recipe_of(tiny("training"), "shipped")
    model = to_detectron2(resolved(cfg.model))

    def targets(node):
        if isinstance(node, dict):
            yield from ([node["_target_"]] if "_target_" in node else [])
            for value in node.values():
                yield from targets(value)
        elif isinstance(node, list):
            for value in node:
                yield from targets(value)

    found = list(targets(model))
    assert model["backbone"]["_target_"] is SimpleFeaturePyramid
    assert model["backbone"]["net"]["_target_"] is ViT
    classes = [t for t in found if isinstance(t, type) and t not in (SimpleFeaturePyramid, ViT)]
    assert classes
    assert not [t for t in classes if t.__module__.startswith("vitdet_d2.heads")]


def test_nothing_is_left_to_chance_in_the_gate(tmp_path: Path):
    model = build(tiny("training"), "ours", without_chance=True)
    rpn, heads = model.proposal_generator, model.roi_heads
    anchors = 6 * (8 * 8 + 4 * 4)
    assert rpn.batch_size_per_image == 2 * anchors
    assert rpn.loss_weight["loss_rpn_cls"] == 2 * anchors / 128
    assert heads.batch_size_per_image == rpn.post_nms_topk[True] + 7
    assert heads.positive_fraction == 1.0
    assert all(getattr(m, "drop_prob", 0.0) in (0.0, None) for m in model.modules())


def test_own_weights_are_shared(tmp_path: Path):
    case = tiny("training")
    write_weights(case, tmp_path / "first.pt")
    again = tiny("training", weights=str(tmp_path / "first.pt"))
    write_weights(again, tmp_path / "second.pt")
    states = [torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("first", "second")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_good_proposals_are_near_the_objects():
    heads = torch.nn.Identity()
    heads.forward = lambda images, features, proposals, targets: proposals  # type: ignore
    model = torch.nn.Module()
    model.roi_heads = heads
    give_good_proposals(model)
    targets, proposals = Instances((64, 64)), Instances((64, 64))
    targets.gt_boxes = Boxes(torch.tensor([[10.0, 10.0, 30.0, 40.0]]))
    proposals.proposal_boxes = Boxes(torch.zeros(95, 4))
    (found,) = heads(None, None, [proposals], [targets])
    boxes = found.proposal_boxes.tensor
    assert len(boxes) == 95
    assert boxes[90:].eq(0).all()
    assert (boxes[:90] - targets.gt_boxes.tensor).abs().max() <= 3.0
    assert len(boxes[:90].unique(dim=0)) == 90


def test_rows_without_a_gpu_say_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = rows(wanted())
    training = [row for row in found if row.case.axis == "training"]
    assert [(r.case.model, r.case.batch) for r in training] == [
        (model, batch) for model in ("vitdet_b", "vitdet_l") for batch in (1, 4, 8)
    ]
    assert all(row.unmeasured == NO_GPU for row in training)
    here = [row.case for row in found if row.unmeasured is None]
    assert {case.device for case in here} == {"cpu"}
    assert [c.precision for c in here if c.axis == "backbone"] == ["fp32", "bf16"] * 2
    assert [c.mode for c in here if c.axis == "loader"] == ["fast", "exact"]
    text = markdown(found, {"ours": {"error": "x"}}, "vitdet bench")
    assert text.count(f"unmeasured: {NO_GPU}") == len(found) - len(here)


def test_rows_on_the_cpu_by_request():
    found = rows(wanted(device="cpu", models=("quickstart",), batches=(2,), axes=("training",)))
    assert [row.case.title for row in found] == ["training quickstart 192 px 2 images fp32 (cpu)"]
    assert found[0].unmeasured is None


def test_report_shows_medians_and_void_ratios():
    case = tiny("inference")
    ours = SideOutcome(units=2, wall=(1.0, 2.0, 9.0), cpu=(1.0, 1.0, 1.0), peak_bytes=10**9)
    theirs = SideOutcome(units=2, wall=(4.0, 6.0, 8.0), cpu=(5.0, 5.0, 5.0), peak_bytes=2 * 10**9)
    from vitdet_d2.analysis.bench.gate import Verdict

    good = CaseOutcome(
        case=case,
        hardware="a toy",
        sides={"ours": ours, "shipped": theirs},
        verdict=Verdict(passed=True, worst={}),
        flops=10**12,
        rate=2e12,
    )
    assert good.ratio("shipped") == 3.0
    assert good.ratio("shipped", cpu=True) == 5.0
    assert good.memory_share("shipped") == 0.5
    assert good.share_of_peak == 0.5
    line = next(t for t in markdown([good], {}, "x").splitlines() if "inference" in t)
    for cell in ("1 s +- 200 %", "3 s +- 33 %", "3.00 (5.00)", "1.00 GB", "0.50", "50 %"):
        assert cell in line
    bad = CaseOutcome(
        case=case, sides=good.sides, verdict=Verdict(passed=False, worst={}, failure="no")
    )
    assert "| void |" in markdown([bad], {}, "x")
    assert bad.failures == [f"{case.title}, gate: no"]
    assert TINY
