# SPDX-License-Identifier: Apache-2.0
"""`vitdet predict`: what it writes, what it refuses, and that one bad picture stops nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from PIL import Image
from pycocotools.coco import COCO

from tests.engine import tiny_detector
from tests.zoo.bad_server import BadServer
from tests.zoo.released_layout import write_released
from vitdet_d2 import Predictor, zoo
from vitdet_d2.data.image_paths import FoundImages
from vitdet_d2.engine import cli, detector
from vitdet_d2.engine.predict import plan_pictures
from vitdet_d2.engine.predict_arguments import parse_predict
from vitdet_d2.errors import RecipeError, UserError
from vitdet_d2.evaluation import pictures
from vitdet_d2.zoo import catalogue

pytestmark = pytest.mark.filterwarnings(
    # An installed Detectron2 makes its anchors in the old way.
    "ignore:torch.meshgrid:UserWarning"
)


class Place:
    """A folder with weights and pictures, and the command line."""

    def __init__(self, folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.weights = str(weights)
        self.photos = folder / "photos"
        self.output = folder / "out"
        self._capsys = capsys

    def add(self, name: str, height: int = 40, width: int = 60, **options: Any) -> Path:
        path = self.photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = tiny_detector.picture(height, width, seed=len(name))
        Image.fromarray(pixels).save(path, **options)
        return path

    def run(self, *more: str, threshold: str = "0.3", code: int = 0) -> tuple[str, str]:
        """Predict on `photos`; return standard output and error."""
        given = [] if "--input" in more else ["--input", "photos"]
        model = [] if "--weights" in more or "--model" in more else ["--weights", self.weights]
        argv = ["predict", *model, *given, "--output", "out", "--device", "cpu"]
        self._capsys.readouterr()
        assert cli.main([*argv, "--score-threshold", threshold, *more]) == code
        shown = self._capsys.readouterr()
        assert "Traceback" not in shown.err
        return shown.out, shown.err

    def content(self) -> dict[str, Any]:
        return json.loads((self.output / "predictions.json").read_text())

    def files(self) -> set[str]:
        found = self.output.rglob("*")
        return {path.relative_to(self.output).as_posix() for path in found if path.is_file()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_detector.write_checkpoint(tmp_path_factory.mktemp("weights") / "w.pth")


@pytest.fixture
def place(
    tmp_path: Path,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Place]:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():  # the command line silences some, which here are errors
        yield Place(tmp_path, weights, capsys)


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("weights were read before the mistake was told")

    monkeypatch.setattr("vitdet_d2.engine.predict.load_detector", fail)


# ---------------------------------------------------------------- what is written


@pytest.mark.parametrize("batch_size", ["1", "2"])
def test_pictures_and_one_file(place: Place, batch_size: str) -> None:
    place.add("a.png")
    place.add("b.jpg", 80, 50)
    place.add("c.bmp")
    shown, _ = place.run("--batch-size", batch_size)
    assert place.files() == {"a.png", "b.jpg", "c.png", "predictions.json"}
    content = place.content()
    size = {"width": 60, "height": 40}
    assert content["images"] == [
        {"id": 1, "file_name": "a.png", **size, "picture": "a.png"},
        {"id": 2, "file_name": "b.jpg", "width": 50, "height": 80, "picture": "b.jpg"},
        {"id": 3, "file_name": "c.bmp", **size, "picture": "c.png"},
    ]
    assert content["categories"] == [{"id": 5, "name": "ant"}, {"id": 9, "name": "bee"}]
    assert content["info"]["image_root"] == str(place.photos)
    assert content["info"]["score_threshold"] == 0.3
    assert content["failed"] == []
    count = len(content["annotations"])
    assert {row["image_id"] for row in content["annotations"]} == {1, 2, 3}
    assert min(row["score"] for row in content["annotations"]) >= 0.3
    assert shown.startswith(f"3 pictures, {count} detections with score >= 0.3, ")
    assert shown.endswith("results in out/predictions.json\n")


def test_numbers_are_those_of_the_predictor_and_pycocotools_reads_them(place: Place) -> None:
    path = place.add("a.png")
    place.run("--no-pictures")
    assert place.files() == {"predictions.json"}
    predictor = Predictor.from_checkpoint(place.weights, device="cpu", score_threshold=0.3)
    instances = predictor(path)
    expected = instances_to_coco_json(instances, 1)
    rows = place.content()["annotations"]
    assert len(rows) == len(expected) > 3
    for row, wanted in zip(rows, expected, strict=True):
        wanted["category_id"] = tiny_detector.DATASET_IDS[wanted["category_id"]]
        assert {key: row[key] for key in wanted} == wanted
    coco = COCO(str(place.output / "predictions.json"))
    for row, mask in zip(rows, instances.pred_masks.numpy(), strict=True):
        np.testing.assert_array_equal(coco.annToMask(row), mask)
    assert len(coco.loadRes(rows).anns) == len(rows)


def test_drawings_show_the_picture_and_what_was_found(place: Place) -> None:
    path = place.add("a.png")
    place.run()
    place.run("--output", "none", threshold="1")
    with Image.open(place.output / "a.png") as drawn, Image.open("none/a.png") as plain:
        assert drawn.size == plain.size == (720, 480)  # enlarged, so that labels can be read
        with Image.open(path) as source:
            expected = np.asarray(source.resize(plain.size, Image.Resampling.BICUBIC), dtype=float)
        assert np.abs(np.asarray(plain, dtype=float) - expected).mean() < 8
        assert np.abs(np.asarray(drawn, dtype=float) - expected).mean() > 10


def test_summary_as_json_alone_on_standard_output(place: Place) -> None:
    place.add("a.png")
    (place.photos / "bad.jpg").touch()
    shown, _ = place.run("--json", code=3)
    summary = json.loads(shown)
    assert summary["images"] == summary["pictures"] == 1
    assert summary["detections"] == len(place.content()["annotations"])
    assert summary["failed"] == [
        {"file_name": "bad.jpg", "reason": "an empty file (0 bytes); get it again"}
    ]
    assert summary["predictions"] == "out/predictions.json"
    assert summary["images_per_second"] > 0


def test_folders_below_keep_their_places(place: Place) -> None:
    for name in ("a.jpg", "x/a.jpg", "x/y/a.jpg"):
        place.add(name)
    place.run("--recursive")
    assert place.files() == {"a.jpg", "x/a.jpg", "x/y/a.jpg", "predictions.json"}
    assert [row["file_name"] for row in place.content()["images"]] == [
        "a.jpg",
        "x/a.jpg",
        "x/y/a.jpg",
    ]


def test_results_inside_the_pictures_are_not_read_again(place: Place) -> None:
    place.add("a.jpg")
    for _ in range(2):
        place.run("--recursive", "--output", "photos/out", "--overwrite")
    content = json.loads((place.photos / "out" / "predictions.json").read_text())
    assert [row["file_name"] for row in content["images"]] == ["a.jpg"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("a.jpg", "a.tif", "a.jpeg"), ["a.jpg", "a_2.jpg", "a_3.jpg"]),
        (("a.png", "a.bmp", "a.jpg"), ["a.png", "a_2.png", "a.jpg"]),
        (("a.jpg", "A.jpg", "a_2.jpg"), ["a.jpg", "A_2.jpg", "a_2_2.jpg"]),
        (("x/a.jpg", "y/a.jpg", "x/a.webp"), ["x/a.jpg", "y/a.jpg", "x/a_2.jpg"]),
        (("no ending", "two.dots.png"), ["no ending.jpg", "two.dots.png"]),
    ],
)
def test_no_two_drawings_have_one_name(names: tuple[str, ...], expected: list[str]) -> None:
    targets = plan_pictures(FoundImages(root=Path("/"), names=names))
    assert [targets[name] for name in names] == expected


def test_weights_with_their_recipe_apart(place: Place) -> None:
    place.add("a.png")
    overrides = [text for text in tiny_detector.OVERRIDES if "mask_head" not in text]
    place.run("--config-file", "quickstart", *overrides)
    assert place.content()["info"]["recipe"] == "quickstart"
    assert place.content()["info"]["overrides"] == overrides


def test_classes_without_names_are_numbered_with_a_note(place: Place) -> None:
    place.add("a.png")
    content = torch.load(place.weights, weights_only=True)
    del content["vitdet_d2"]
    torch.save(content, "bare.pth")
    _, told = place.run(
        "--config-file", "quickstart", "--weights", "bare.pth", *tiny_detector.OVERRIDES
    )
    assert "WARNING: Classes are numbered: neither the weights nor" in told
    assert [row["name"] for row in place.content()["categories"]] == ["class 0", "class 1"]


def test_a_released_model_by_name(
    place: Place, server: BadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Download, recipe, names of COCO and prediction; the recipe is small here."""
    cfg = tiny_detector.recipe(
        "model.roi_heads.num_classes=80",
        "model.roi_heads.mask_head.num_classes=80",
        "dataloader.test.dataset.names=coco_2017_val",
    )
    state = instantiate(cfg.model).state_dict()
    released = place.folder / "released.pkl"
    write_released(released, {name: tensor.numpy() for name, tensor in state.items()})
    prefix = hashlib.md5(released.read_bytes()).hexdigest()[:6]
    row = dataclasses.replace(zoo.find("vitdet_b"), hash_prefix=prefix)
    monkeypatch.setattr(catalogue, "RELEASED", (row,))
    monkeypatch.setattr(detector, "get_config", lambda name: cfg)
    server.files[f"/ViTDet/{row.path}"] = released.read_bytes()
    place.add("a.png")
    for more in ((), ("--overwrite",)):
        place.run("--model", "vitdet_b", "--no-pictures", *more, threshold="0")
    assert len(server.requests) == 1
    content = place.content()
    assert [row["name"] for row in content["categories"]][:3] == ["person", "bicycle", "car"]
    assert content["info"]["recipe"] == "vitdet_b"
    assert content["annotations"]
    assert Predictor.from_zoo("vitdet_b", device="cpu").classes.names[79] == "toothbrush"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("vitdt_l", ("did you mean vitdet_l",)),
        ("vitdet_ti", ("no checkpoint of the recipe 'vitdet_ti' was released",)),
    ],
)
def test_models_that_are_not_there(place: Place, name: str, parts: tuple[str, ...]) -> None:
    place.add("a.png")
    _, told = place.run("--model", name, code=2)
    for part in parts:
        assert part in told
    assert told.count("\n") == 1
    assert not place.output.exists()


# ---------------------------------------------------------------- bad pictures


def _cmyk(place: Place) -> None:
    Image.new("CMYK", (40, 30), (0, 255, 0, 0)).save(place.photos / "odd.jpg")


def _palette(place: Place) -> None:
    pixels = Image.fromarray(tiny_detector.picture(30, 40))
    pixels.quantize(8).save(place.photos / "odd.png", transparency=0)


def _sixteen_bits(place: Place) -> None:
    values = np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50
    Image.fromarray(values).save(place.photos / "odd.png")


def _turned(place: Place) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    place.add("odd.jpg", 40, 30, exif=exif)


def _animated(place: Place) -> None:
    frames = [Image.new("RGB", (40, 30), color) for color in ("red", "blue")]
    frames[0].save(place.photos / "odd.gif", save_all=True, append_images=frames[1:])


USABLE: dict[str, tuple[Callable[[Place], None], str]] = {
    "CMYK": (_cmyk, "CMYK, converted to RGB without its colour profile"),
    "palette": (_palette, "its transparency is ignored, as in training"),
    "16 bits": (_sixteen_bits, "16-bit grey, its values 0 to 59950 scaled from 0-65535 to 0-255"),
    "EXIF": (_turned, "turned upright (EXIF orientation 8)"),
    "animated": (_animated, "only the first of its 2 frames is used"),
}


@pytest.mark.parametrize("kind", USABLE)
def test_unusual_pictures_are_predicted_and_named(place: Place, kind: str) -> None:
    make, note = USABLE[kind]
    place.add("a.png")
    make(place)
    place.add("z.png")
    _, told = place.run()
    (odd,) = (row for row in place.content()["images"] if row["file_name"].startswith("odd"))
    assert (odd["height"], odd["width"]) == (30, 40)
    assert odd["notes"][0].startswith(note)
    assert f"{odd['file_name']}: {note}" in told
    assert len(place.content()["images"]) == 3


def _empty(place: Place) -> None:
    (place.photos / "odd.jpg").touch()


def _cut_off(place: Place) -> None:
    path = place.add("odd.jpg")
    path.write_bytes(path.read_bytes()[:400])


def _text(place: Place) -> None:
    (place.photos / "odd.jpg").write_text("no picture")


def _float(place: Place) -> None:
    Image.fromarray(np.zeros((30, 40), dtype=np.float32)).save(place.photos / "odd.tif")


def _thin(place: Place) -> None:
    Image.new("RGB", (900, 1)).save(place.photos / "odd.png")


def _large(place: Place) -> None:
    Image.new("1", (3000, 2000)).save(place.photos / "odd.png")


UNUSABLE: dict[str, tuple[Callable[[Place], object], str]] = {
    "empty": (_empty, "an empty file (0 bytes)"),
    "cut off": (_cut_off, "cut off or damaged"),
    "no picture": (_text, "not a picture that Pillow knows"),
    "floating point": (_float, "a floating-point picture"),
    "too thin": (_thin, "a picture of 900 x 1 pixels (width x height) cannot be resized"),
    "too large": (_large, "3000 x 2000 pixels (width x height) are more than the limit of 5000000"),
    "folder": (lambda place: (place.photos / "odd.jpg").mkdir(), "a folder, not a picture"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_one_bad_picture_is_named_and_the_others_go_on(place: Place, kind: str) -> None:
    make, reason = UNUSABLE[kind]
    place.add("a.png")
    make(place)
    place.add("z.png")
    inputs = [str(path) for path in sorted(place.photos.iterdir())]
    if kind == "folder":
        place.add("odd.jpg/inside.png")  # taken instead
        place.run("--input", *inputs)
        return
    _, told = place.run("--input", *inputs, "--max-pixels", "5000000", "--batch-size", "3", code=3)
    content = place.content()
    assert [row["file_name"] for row in content["images"]] == ["a.png", "z.png"]
    ((name, said),) = ((row["file_name"], row["reason"]) for row in content["failed"])
    assert name.startswith("odd.")
    assert said.startswith(reason)
    assert str(place.folder) not in said
    *_, last = told.splitlines()
    head = "error: 1 of 3 pictures could not be used, the others are done: "
    assert last.startswith(f"{head}{name}: {reason}")
    assert f"WARNING: {name}: {reason}" in told


def test_a_picture_beyond_the_square_is_named_and_not_cropped(place: Place) -> None:
    place.add("a.png", 64, 64)
    place.add("odd.png", 64, 65)
    # No augmentation states a largest size, so this shows only with the picture.
    no_limit = "~dataloader.test.mapper.augmentations.0.max_size"
    place.run("--batch-size", "2", "--no-pictures", no_limit, code=3)
    (failed,) = place.content()["failed"]
    assert failed["file_name"] == "odd.png"
    assert failed["reason"].startswith("an image of 64 x 65 pixels does not fit the square of 64")
    assert [row["file_name"] for row in place.content()["images"]] == ["a.png"]


def test_all_pictures_bad(place: Place) -> None:
    place.photos.mkdir()
    for i in range(5):
        (place.photos / f"{i}.jpg").touch()
    _, told = place.run(code=3)
    *_, last = told.splitlines()
    assert last.startswith("error: 5 of 5 pictures could not be used")
    assert last.endswith("; ... (all in out/predictions.json)")
    assert len(place.content()["failed"]) == 5


def test_many_notes_of_one_kind_are_not_all_told(place: Place) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    for i in range(8):
        place.add(f"{i}.jpg", exif=exif)
    _, told = place.run("--no-pictures")
    assert told.count("turned upright") == 6
    assert "5.jpg: turned upright (EXIF orientation 3); further ones are in" in told
    assert all("notes" in row for row in place.content()["images"])


def test_too_little_memory_for_one_picture(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.add("a.png")
    place.add("wide.png", 20, 90)
    predict = Predictor.predict_regions

    def limited(self: Predictor, batch: list[Any]) -> Any:
        if any(pixels.shape[1] == 90 for pixels in batch):
            raise torch.OutOfMemoryError("tried to allocate 9 GiB")
        return predict(self, batch)

    monkeypatch.setattr(Predictor, "predict_regions", limited)
    place.run("--batch-size", "2", code=3)
    (failed,) = place.content()["failed"]
    assert failed["file_name"] == "wide.png"
    assert failed["reason"].startswith("not enough memory (tried to allocate 9 GiB); make it")
    assert len(place.content()["images"]) == 1


def test_detections_that_are_not_finite(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.add("a.png")
    predict = Predictor.predict_regions

    def broken(self: Predictor, batch: list[Any]) -> Any:
        found = predict(self, batch)
        found[0].scores[0] = float("nan")
        return found

    monkeypatch.setattr(Predictor, "predict_regions", broken)
    place.run(code=3)
    assert "not finite" in place.content()["failed"][0]["reason"]
    assert place.content()["annotations"] == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_what_was_done(
    place: Place, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for name in ("a.png", "b.png", "c.png"):
        place.add(name)
    predict = Predictor.predict_regions
    calls = []

    def interrupted(self: Predictor, batch: list[Any]) -> Any:
        calls.append(batch)
        if len(calls) == 3:
            signal.raise_signal(signum)
        return predict(self, batch)

    monkeypatch.setattr(Predictor, "predict_regions", interrupted)
    _, told = place.run(code=128 + signum)
    expected = "stopped: interrupted after 2 of 3 pictures, which are in out/predictions.json"
    assert told.splitlines()[-1] == expected
    assert [row["file_name"] for row in place.content()["images"]] == ["a.png", "b.png"]
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


# ---------------------------------------------------------------- refused before any work


@pytest.mark.usefixtures("no_model")
def test_no_pictures_found(place: Place) -> None:
    place.photos.mkdir()
    _, told = place.run(code=3)
    assert told.startswith(f"error: no pictures in folder {place.photos}; pictures end in")
    assert not place.output.exists()


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("more", [(), ("--overwrite",)])
@pytest.mark.parametrize("output", ["photos", "link"])
def test_pictures_that_are_read_are_never_replaced(
    place: Place, more: tuple[str, ...], output: str
) -> None:
    path = place.add("a.jpg")
    before = path.read_bytes()
    (place.folder / "link").symlink_to(place.photos)
    _, told = place.run("--output", output, "--input", "photos/a.jpg", *more, code=2)
    assert f"{output}/a.jpg is one of the pictures to read, and would be replaced" in told
    assert path.read_bytes() == before


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("name", ["predictions.json", "a.png"])
def test_other_files_are_replaced_only_when_asked(place: Place, name: str) -> None:
    place.add("a.png")
    place.output.mkdir()
    (place.output / name).write_text("mine")
    _, told = place.run(code=2)
    assert told == (
        f"error: --output out: {name} is there already; replace it with --overwrite, or name "
        "another folder\n"
    )
    assert (place.output / name).read_text() == "mine"


def test_overwrite_replaces(place: Place) -> None:
    place.add("a.png")
    place.run()
    place.run("--overwrite", threshold="0.9")
    assert place.content()["info"]["score_threshold"] == 0.9


def test_an_output_folder_that_cannot_be_made(place: Place) -> None:
    place.add("a.png")
    place.output.write_text("a file")
    _, told = place.run(code=1)
    assert "output folder out cannot be written to" in told


@pytest.mark.parametrize(
    ("module", "package"), [("cv2", "opencv-python-headless"), ("matplotlib", "matplotlib")]
)
def test_a_drawing_package_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr("importlib.import_module", missing)
    expected = f"needs {module}, which is not installed; pip install {package}, or"
    with pytest.raises(UserError, match=expected):
        pictures.load_visualizer()


# ---------------------------------------------------------------- arguments

WRONG: dict[str, str] = {
    "--input a --output o": "which model? give --model NAME or --weights FILE",
    "--config-file quickstart --input a --output o": "which model? give --weights FILE for the",
    "--model m --weights w --input a --output o": "--weights contradicts it",
    "--model m --config-file c --input a --output o": "--config-file contradicts it; for a",
    "--weights w --output o": "--input",
    "--weights w --input a": "--output",
    "--weights w --input train.seed=1 --output o": "--input: no picture named",
    "--weights w --input a --output o --score-threshold 50": "a number of 0 to 1, got '50'",
    "--weights w --input a --output o --score-threshold half": "a number of 0 to 1, got 'half'",
    "--weights w --input a --output o --batch-size 0": "a whole number of at least 1, got '0'",
    "--weights w --input a --output o --max-pixels -1": "--max-pixels",
    "--weights w --input a --output o --threshold 1": "--threshold",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_arguments(line: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_predict(line.split())
    assert WRONG[line] in str(caught.value)


def test_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd=name.jpg").touch()
    line = "a.seed=1 --weights w --input x y odd=name.jpg b.c=[2] --input z +d=3 --output o"
    arguments = parse_predict(line.split())
    assert arguments.input == ("x", "y", "odd=name.jpg", "z")
    assert arguments.overrides == ("a.seed=1", "b.c=[2]", "+d=3")
    assert (arguments.score_threshold, arguments.device, arguments.batch_size) == (0.5, "auto", 1)
    assert arguments.pictures
    assert not arguments.json


def test_help_names_all_ways(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["predict", "--help"])
    shown = capsys.readouterr().out
    for part in ("--model NAME", "a quoted pattern", "predictions.json", "exit codes: 0"):
        assert part in shown
