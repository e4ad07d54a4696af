# SPDX-License-Identifier: Apache-2.0
"""Prediction from Python: the numbers of evaluation, for every form of picture."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.engine import DefaultPredictor
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from tests.engine import tiny_detector
from vitdet_d2 import Predictor
from vitdet_d2.engine.detector import load_detector, num_classes_of
from vitdet_d2.engine.evaluate import do_eval
from vitdet_d2.errors import DataError, RecipeError, WeightsError

pytestmark = pytest.mark.filterwarnings(
    # An installed Detectron2 makes its anchors in the old way.
    "ignore:torch.meshgrid:UserWarning"
)

SIZES = [(48, 80), (90, 40), (64, 64)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_detector.write_checkpoint(tmp_path_factory.mktemp("weights") / "w.pth")


@pytest.fixture(scope="module")
def predictor(weights: Path) -> Predictor:
    return Predictor.from_checkpoint(weights, device="cpu")


def same(first: Instances, second: Instances, exact: bool = True) -> None:
    assert first.image_size == second.image_size
    assert len(first) == len(second) > 3
    # A batch of another size may sum in another order.
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-4, "atol": 1e-3}
    torch.testing.assert_close(first.pred_boxes.tensor, second.pred_boxes.tensor, **tolerance)
    torch.testing.assert_close(first.scores, second.scores, **tolerance)
    assert torch.equal(first.pred_classes, second.pred_classes)
    if exact:
        assert torch.equal(first.pred_masks, second.pred_masks)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_same_numbers_as_evaluation(tmp_path: Path, order: str) -> None:
    files = []
    for i, (height, width) in enumerate(SIZES):
        Image.fromarray(tiny_detector.picture(height, width, i)).save(tmp_path / f"{i}.png")
        files.append((f"{i}.png", height, width))
    annotations = tiny_detector.write_annotations(tmp_path / "val.json", files)
    # With the wrong order of channels the scores would be others: checked below.
    overrides = (
        f"model.input_format={order}",
        f"dataloader.train.mapper.image_format={order}",
        f"data.val_json={annotations}",
        f"data.val_images={tmp_path}",
    )
    weights = tiny_detector.write_checkpoint(tmp_path / "w.pth", *overrides)
    cfg = tiny_detector.recipe(*overrides, f"train.output_dir={tmp_path}/run")
    cfg.train.init_checkpoint = str(weights)
    do_eval(cfg)
    written = json.loads((tmp_path / "run/inference/coco_instances_results.json").read_text())
    predictor = Predictor.from_checkpoint(weights, device="cpu")
    assert len(written) > 10
    for i, (name, _, _) in enumerate(files, start=1):
        found = instances_to_coco_json(predictor(tmp_path / name), i)
        for row in found:
            row["category_id"] = tiny_detector.DATASET_IDS[row["category_id"]]
        assert found == [row for row in written if row["image_id"] == i]
    other = Predictor.from_checkpoint(
        weights,
        device="cpu",
        overrides=[
            f"dataloader.train.mapper.image_format={order[::-1]}",
            "model.input_format=null",
        ],
    )
    assert not torch.equal(
        other(tmp_path / "0.png").scores[:3], predictor(tmp_path / "0.png").scores[:3]
    )


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("size", SIZES)
def test_same_numbers_as_default_predictor(
    weights: Path, order: str, size: tuple[int, int]
) -> None:
    """With an installed Detectron2 this is its own code around the same model."""
    detector = load_detector(weights, device="cpu")
    # Its constructor wants a yacs file; what a call uses is set here.
    default = DefaultPredictor.__new__(DefaultPredictor)
    default.cfg = SimpleNamespace(MODEL=SimpleNamespace(DEVICE="cpu"))
    default.input_format, default.model = order, detector.model
    default.aug = T.ResizeShortestEdge([64, 64], 64)
    predictor = Predictor(detector.model, [T.ResizeShortestEdge(64, 64)], model_order=order)
    pixels = tiny_detector.picture(*size)
    expected = default(np.ascontiguousarray(pixels[:, :, ::-1]))["instances"]  # it takes BGR
    same(predictor(pixels, channel_order="RGB"), expected)


@pytest.mark.parametrize("size", SIZES)
def test_every_form_of_a_picture_gives_the_same(
    tmp_path: Path, predictor: Predictor, size: tuple[int, int]
) -> None:
    pixels = tiny_detector.picture(*size)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    expected = predictor(path)
    assert expected.image_size == size
    same(predictor(str(path)), expected)
    same(predictor(Image.fromarray(pixels)), expected)
    same(predictor(pixels, channel_order="RGB"), expected)
    same(predictor(pixels[:, :, ::-1], channel_order="BGR"), expected)
    same(predictor(np.asfortranarray(pixels), channel_order="RGB"), expected)
    frozen = pixels.copy()
    frozen.flags.writeable = False
    same(predictor(frozen, channel_order="RGB"), expected)


@pytest.mark.parametrize("orientation", [3, 6])
def test_exif_orientation_is_obeyed(tmp_path: Path, predictor: Predictor, orientation: int) -> None:
    seen = tiny_detector.picture(48, 80)
    stored = seen[::-1, ::-1] if orientation == 3 else seen.transpose(1, 0, 2)[::-1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    expected = predictor(seen, channel_order="RGB")
    same(predictor(path), expected)
    with Image.open(path) as image:
        same(predictor(image), expected)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_many_pictures_in_order(predictor: Predictor, batch_size: int) -> None:
    pictures = [tiny_detector.picture(*size, seed=i) for i, size in enumerate(SIZES)]
    found = predictor.predict_many(pictures, channel_order="RGB", batch_size=batch_size)
    for instances, pixels in zip(found, pictures, strict=True):
        same(instances, predictor(pixels, channel_order="RGB"), exact=batch_size == 1)


def test_pictures_are_read_as_they_are_needed(predictor: Predictor) -> None:
    taken = []

    def pictures():
        for i in range(4):
            taken.append(i)
            yield Image.fromarray(tiny_detector.picture(40, 40, i))

    found = predictor.predict_many(pictures(), batch_size=2)
    next(found)
    assert taken == [0, 1]


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.6, 1.0])
def test_threshold_leaves_the_rest_as_it_is(weights: Path, threshold: float) -> None:
    pixels = tiny_detector.picture(*SIZES[0])
    found = Predictor.from_checkpoint(weights, device="cpu", score_threshold=threshold)
    every = Predictor.from_checkpoint(weights, device="cpu", score_threshold=0.0)
    expected = every(pixels, channel_order="RGB")
    assert 0 < (expected.scores >= 0.4).sum() < len(expected)
    expected = expected[expected.scores >= threshold]
    given = found(pixels, channel_order="RGB")
    torch.testing.assert_close(given.pred_boxes.tensor, expected.pred_boxes.tensor)
    torch.testing.assert_close(given.scores, expected.scores)
    assert given.pred_masks.shape == expected.pred_masks.shape


# ---------------------------------------------------------------- the constructor


class Finder(nn.Module):
    """Returns the first pixel of its input as the score, in percent, and the size as a box."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[dict[str, Any]] = []

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.given += batch
        return [{"instances": self._find(sample)} for sample in batch]

    def _find(self, sample: dict[str, Any]) -> Instances:
        height, width = sample["height"], sample["width"]
        return Instances(
            (height, width),
            pred_boxes=Boxes(torch.tensor([[0.0, 0.0, width, height]])),
            scores=sample["image"][0, 0, :1] / 100,
            pred_classes=torch.tensor([0]),
        )


def test_model_and_augmentations_of_ones_own() -> None:
    model = Finder().train()
    predictor = Predictor(model, [T.Resize((10, 20))], model_order="BGR", score_threshold=0.3)
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    pixels[:, :] = [20, 0, 30]
    (found,) = predictor(pixels, channel_order="RGB").scores
    assert found == pytest.approx(0.3)
    assert model.given[0]["image"].shape == (3, 10, 20)
    assert model.given[0]["image"].dtype == torch.uint8
    assert len(predictor(pixels, channel_order="BGR")) == 0


def test_a_model_with_a_square_refuses_larger_pictures(weights: Path) -> None:
    model = load_detector(weights, device="cpu").model
    predictor = Predictor(model, [], model_order="RGB")
    with pytest.raises(RecipeError, match="an image of 65 x 12 pixels does not fit the square of"):
        predictor(np.zeros((65, 12, 3), dtype=np.uint8), channel_order="RGB")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_order": "rgb"}, "model_order: expected 'RGB' or 'BGR', got 'rgb'"),
        ({"model_order": "RGB", "score_threshold": 50}, r"score_threshold: expected \[0, 1\]"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Predictor(Finder(), [], **arguments)


# ---------------------------------------------------------------- wrong pictures


@pytest.mark.parametrize(
    ("image", "order", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), None, r"'BGR' \(OpenCV\) for an array, got None"),
        (np.zeros((4, 4, 3), np.uint8), "rgb", "channel_order: expected 'RGB'"),
        (np.zeros((4, 4), np.uint8), "RGB", r"got \(4, 4\) of uint8"),
        (np.zeros((3, 4, 4), np.uint8), "RGB", r"expected an array \(H, W, 3\)"),
        (np.zeros((4, 4, 3)), "RGB", "got .* of float64"),
        (np.zeros((0, 4, 3), np.uint8), "RGB", r"got \(0, 4, 3\)"),
        (torch.zeros(3, 4, 4), None, "a path, a Pillow image or an array .* got Tensor"),
        (Image.new("RGB", (4, 4)), "RGB", "only for arrays; Image knows its own"),
        ("a.jpg", "BGR", "only for arrays; str knows its own"),
    ],
)
def test_wrong_arguments(predictor: Predictor, image: Any, order: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictor(image, channel_order=order)


def test_wrong_batch_size(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        next(predictor.predict_many([], batch_size=0))


def test_unreadable_file_is_named(tmp_path: Path, predictor: Predictor) -> None:
    path = tmp_path / "empty.jpg"
    path.touch()
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}: an empty file"):
        predictor(path)


def test_a_picture_too_thin_to_resize(predictor: Predictor) -> None:
    pixels = np.zeros((1, 500, 3), dtype=np.uint8)
    with pytest.raises(DataError, match=r"a picture of 500 x 1 pixels .* cannot be resized"):
        predictor(pixels, channel_order="RGB")


# ---------------------------------------------------------------- recipe and weights


def test_classes_come_with_the_checkpoint(predictor: Predictor) -> None:
    assert predictor.classes is not None
    assert predictor.classes.names == tiny_detector.CLASSES
    assert predictor.classes.category_ids == tiny_detector.DATASET_IDS
    assert num_classes_of(predictor.model) == 2


def test_a_run_folder_stands_for_its_newest_checkpoint(tmp_path: Path) -> None:
    run = tiny_detector.write_run(tmp_path / "run")
    detector = load_detector(run, device="cpu")
    assert detector.weights == str(run / "model_0000009.pth")


def test_other_weights_of_a_run_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tiny_detector.write_run(tmp_path / "run")
    (run / "model_best.pth").write_bytes((run / "model_0000009.pth").read_bytes())
    with caplog.at_level("INFO"):
        load_detector(run, device="cpu")
    assert "Name the file to take other weights of this run: model_best.pth" in caplog.text
    assert load_detector(run / "model_best.pth", device="cpu").weights.endswith("model_best.pth")


def test_a_run_folder_without_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no checkpoint in .*; name a checkpoint with"):
        load_detector(tmp_path, device="cpu")


def test_recipe_and_weights_apart(tmp_path: Path) -> None:
    weights = tiny_detector.write_checkpoint(tmp_path / "w.pth", carries_recipe=False)
    with pytest.raises(WeightsError, match=r"w\.pth: carries no recipe, .* --config-file"):
        Predictor.from_checkpoint(weights, device="cpu")
    # The number of masks follows from the checkpoint, as it did before training.
    overrides = [text for text in tiny_detector.OVERRIDES if "mask_head" not in text]
    predictor = Predictor.from_recipe("quickstart", weights, overrides=overrides, device="cpu")
    assert len(predictor(tiny_detector.picture(48, 80), channel_order="RGB")) > 3


def test_the_classes_of_a_named_recipe_follow_the_checkpoint(weights: Path) -> None:
    overrides = [text for text in tiny_detector.OVERRIDES if "num_classes" not in text]
    detector = load_detector(weights, "quickstart", overrides, device="cpu")
    assert detector.model.roi_heads.box_predictor.cls_score.out_features == 2 + 1


@pytest.mark.parametrize(
    ("override", "count"),
    [
        ("model.roi_heads.num_classes=3", 3),
        ("+model.roi_heads.box_predictor.use_sigmoid_ce=true", 80),  # as LVIS models score
    ],
)
def test_a_recipe_of_other_classes(weights: Path, override: str, count: int) -> None:
    expected = (
        rf"w\.pth: trained on 2 classes \(ant, bee\), the recipe has {count}; leave --config-file "
        r"and model\.roi_heads\.num_classes out"
    )
    with pytest.raises(WeightsError, match=expected):
        load_detector(weights, "quickstart", [override], device="cpu")


OF_OTHER_CLASSES = (
    r"w\.pth: the file has 3 classes, the recipe 2 classes; .* model\.roi_heads\.num_classes=3"
)


@pytest.fixture
def of_three_classes(tmp_path: Path) -> Path:
    """Weights that say nothing of their classes, so that tensors alone can tell."""
    heads = ("roi_heads", "roi_heads.mask_head")
    overrides = [f"model.{head}.num_classes=3" for head in heads]
    path = tiny_detector.write_checkpoint(tmp_path / "w.pth", *overrides)
    torch.save({"model": torch.load(path)["model"]}, path)
    return path


def test_heads_of_other_classes_are_never_used_in_prediction(of_three_classes: Path) -> None:
    with pytest.raises(WeightsError, match=OF_OTHER_CLASSES):
        load_detector(of_three_classes, "quickstart", tiny_detector.OVERRIDES, device="cpu")


def test_heads_of_other_classes_are_never_evaluated(of_three_classes: Path, tmp_path: Path) -> None:
    Image.fromarray(tiny_detector.picture(48, 80)).save(tmp_path / "0.png")
    annotations = tiny_detector.write_annotations(tmp_path / "val.json", [("0.png", 48, 80)])
    data = (f"data.val_json={annotations}", f"data.val_images={tmp_path}")
    cfg = tiny_detector.recipe(*data, f"train.output_dir={tmp_path}/run")
    cfg.train.init_checkpoint = str(of_three_classes)
    with pytest.raises(WeightsError, match=OF_OTHER_CLASSES):
        do_eval(cfg)
    assert not (tmp_path / "run/inference").exists()


def test_a_checkpoint_cannot_name_foreign_code(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    recipe = {"model": {"_target_": "os.system", "command": f"touch {tmp_path}/ran"}}
    torch.save({"model": {}, "vitdet_d2": {"recipe": json.dumps(recipe)}}, path)
    with pytest.raises(RecipeError, match=r"the recipe in .*w\.pth: model: os\.system is outside"):
        load_detector(path, device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("~dataloader.test.mapper.augmentations", r"augmentations: expected the list of"),
        ("dataloader.train.mapper.image_format=L", r"expected RGB or BGR, got \['L', 'RGB'\]"),
        ("dataloader.test.mapper.augmentations.0.max_size=65", "does not fit the square of 64"),
        ("train.no_such_key=1", "no key 'train.no_such_key'"),
    ],
)
def test_recipes_that_cannot_predict(weights: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_detector(weights, overrides=[override], device="cpu")


def test_a_device_that_is_not_there(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match=r"--device=cuda, but torch .* use --device=auto or"):
        load_detector(weights, device="cuda")


def test_importing_the_package_stays_light() -> None:
    code = (
        "import sys, vitdet_d2\n"
        "assert not [name for name in sys.modules if name.startswith('vitdet_d2.engine')]\n"
        "assert 'Predictor' in dir(vitdet_d2)\n"
        "try: vitdet_d2.Predictr\n"
        "except AttributeError as error: print(error)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "module 'vitdet_d2' has no attribute 'Predictr'\n"
