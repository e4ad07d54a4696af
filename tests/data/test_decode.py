# SPDX-License-Identifier: Apache-2.0
"""Fast reading, against Detectron2's; and what is left to it."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from tests.runtime.bundled.data.images import pixels, save_image
from vitdet_d2.data.decode import _fast_decoder, read_canvas


@pytest.fixture(params=[True, False], ids=["simplejpeg", "pillow"])
def decoder(request, monkeypatch):
    """Read JPEG files with and without the optional decoder."""
    if request.param:
        pytest.importorskip("simplejpeg", reason="simplejpeg is not installed")
    else:
        monkeypatch.setattr("vitdet_d2.data.decode._fast_decoder", lambda: None)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "wide.jpg"])
def test_pixels_are_those_of_detectron2(tmp_path, name, exact, decoder):
    height, width = (8, 100) if name == "wide.jpg" else (37, 53)
    path = save_image(tmp_path / name, height, width)
    canvas = read_canvas(str(path), exact=exact)
    assert canvas.size == (height, width)
    np.testing.assert_array_equal(canvas.array(), read_image(str(path), "RGB"))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_subsampled_colours(tmp_path, subsampling, decoder):
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels(41, 55)).save(path, quality=80, subsampling=subsampling)
    found = read_canvas(str(path), exact=False).array()
    np.testing.assert_array_equal(found, read_image(str(path), "RGB"))


def _kinds(folder):
    """Write pictures of uncommon kinds."""
    rgb = Image.fromarray(pixels(20, 30))
    for name, mode in (("grey.jpg", "L"), ("alpha.png", "RGBA"), ("ink.jpg", "CMYK")):
        rgb.convert(mode).save(folder / name)
    rgb.save(folder / "a.bmp")
    rgb.save(folder / "moving.png", save_all=True, append_images=[rgb.rotate(90)])
    save_image(folder / "turned.jpg", 20, 30, orientation=6)
    save_image(folder / "whole.jpg", 64, 64)
    content = (folder / "whole.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    (folder / "empty.jpg").write_bytes(b"")


@pytest.mark.parametrize("exact", [True, False])
def test_uncommon_kinds_are_left_to_detectron2(tmp_path, exact, decoder):
    _kinds(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir() if path.name != "whole.jpg")
    assert len(names) == 8
    left = [n for n in names if read_canvas(str(tmp_path / n), exact=exact) is None]
    assert left == names
    assert read_canvas(str(tmp_path / "absent.jpg"), exact=exact) is None


def test_decoder_is_optional():
    decoder = _fast_decoder()
    assert decoder is None or callable(decoder)
