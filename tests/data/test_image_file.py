# SPDX-License-Identifier: Apache-2.0
"""Pictures of every kind that users have, each made here: read right, noted, or refused by name."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from vitdet_d2.data.image_file import read_upright, upright
from vitdet_d2.data.load_failures import UnreadableImageError

# Every corner another colour: each orientation leads to another picture.
PIXELS = np.zeros((4, 6, 3), dtype=np.uint8)
PIXELS[0, 0], PIXELS[0, -1], PIXELS[-1, 0], PIXELS[-1, -1] = (
    [250, 10, 20],
    [10, 250, 20],
    [10, 20, 250],
    [200, 200, 200],
)

# EXIF's definition: which stored pixel is the upper left one of the picture, and whether rows of
# the picture are stored columns.
STORED = {
    1: lambda seen: seen,
    2: lambda seen: seen[:, ::-1],
    3: lambda seen: seen[::-1, ::-1],
    4: lambda seen: seen[::-1],
    5: lambda seen: seen.transpose(1, 0, 2),
    6: lambda seen: seen.transpose(1, 0, 2)[::-1],
    7: lambda seen: seen.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda seen: seen.transpose(1, 0, 2)[:, ::-1],
}


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def refused(path: Path, *parts: str, **options: int) -> None:
    with pytest.raises(UnreadableImageError, match=re.escape(str(path))) as caught:
        read_upright(path, **options)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_gives_the_picture_as_seen(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](PIXELS))
    path = save(tmp_path / "turned.png", Image.fromarray(stored), exif=exif)
    image = read_upright(path)
    np.testing.assert_array_equal(image.pixels, PIXELS)
    expected = () if orientation == 1 else (f"turned upright (EXIF orientation {orientation})",)
    assert image.notes == expected
    np.testing.assert_array_equal(image.pixels, read_image(str(path), "RGB"))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "odd.png", Image.fromarray(PIXELS), exif=exif)
    image = read_upright(path)
    np.testing.assert_array_equal(image.pixels, PIXELS)
    assert image.notes == ()


def test_damaged_exif_data_is_ignored(tmp_path: Path) -> None:
    path = save(tmp_path / "exif.jpg", Image.fromarray(PIXELS), exif=b"Exif\0\0II*\0\xff\xff\xff")
    assert read_upright(path).pixels.shape == PIXELS.shape


# ---------------------------------------------------------------- formats and modes


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "webp", "ppm"])
def test_lossless_formats_give_the_same_pixels(tmp_path: Path, ending: str) -> None:
    options = {"lossless": True} if ending == "webp" else {}
    path = save(tmp_path / f"a.{ending}", Image.fromarray(PIXELS), **options)
    np.testing.assert_array_equal(read_upright(path).pixels, PIXELS)


def test_jpeg_gives_what_evaluation_reads(tmp_path: Path) -> None:
    noise = np.random.RandomState(0).randint(0, 255, (31, 45, 3), dtype=np.uint8)
    path = save(tmp_path / "a.jpg", Image.fromarray(noise), quality=80)
    np.testing.assert_array_equal(read_upright(path).pixels, read_image(str(path), "RGB"))


def test_the_content_counts_not_the_ending(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(PIXELS), format="PNG")
    np.testing.assert_array_equal(read_upright(path).pixels, PIXELS)


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = PIXELS[:, :, 0]
    image = read_upright(save(tmp_path / "grey.png", Image.fromarray(grey)))
    np.testing.assert_array_equal(image.pixels, np.stack([grey] * 3, axis=2))
    assert image.notes == ()


def test_black_and_white(tmp_path: Path) -> None:
    bits = PIXELS[:, :, 0] > 100
    image = read_upright(save(tmp_path / "bits.png", Image.fromarray(bits)))
    np.testing.assert_array_equal(image.pixels[:, :, 2], bits * 255)


def test_cmyk_is_converted_and_noted(tmp_path: Path) -> None:
    # Ink: none is white, all of cyan takes the red away.
    ink = np.zeros((8, 8, 4), dtype=np.uint8)
    ink[:, 4:, 0] = 255
    path = save(tmp_path / "print.tif", Image.fromarray(ink, mode="CMYK"))
    image = read_upright(path)
    np.testing.assert_array_equal(image.pixels[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(image.pixels[0, 7], [0, 255, 255])
    assert image.notes == ("CMYK, converted to RGB without its colour profile",)


def test_palette_gives_its_colours(tmp_path: Path) -> None:
    palette = Image.fromarray(PIXELS).quantize(16)
    image = read_upright(save(tmp_path / "palette.png", palette))
    np.testing.assert_array_equal(image.pixels, np.asarray(palette.convert("RGB")))
    assert image.notes == ()


@pytest.mark.parametrize("transparency", [0, bytes([0, 100, 255])])
def test_transparent_palette_keeps_its_colours_and_is_noted(
    tmp_path: Path, transparency: int | bytes
) -> None:
    palette = Image.fromarray(PIXELS).quantize(16)
    path = save(tmp_path / "palette.png", palette, transparency=transparency)
    image = read_upright(path)
    np.testing.assert_array_equal(image.pixels, np.asarray(palette.convert("RGB")))
    assert image.notes == ("its transparency is ignored, as in training",)


@pytest.mark.parametrize(("lowest", "noted"), [(255, False), (254, True), (0, True)])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_and_noted_where_it_shows(
    tmp_path: Path, mode: str, lowest: int, noted: bool
) -> None:
    picture = Image.fromarray(PIXELS).convert(mode)
    alpha = Image.new("L", picture.size, 255)
    alpha.putpixel((1, 1), lowest)
    picture.putalpha(alpha)
    image = read_upright(save(tmp_path / "alpha.png", picture))
    expected = np.asarray(Image.fromarray(PIXELS).convert(mode).convert("RGB"))
    np.testing.assert_array_equal(image.pixels, expected)
    assert image.notes == (("its transparency is ignored, as in training",) if noted else ())


# ---------------------------------------------------------------- depth


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_cut_off(tmp_path: Path, ending: str) -> None:
    values = np.array([[0, 128, 257, 1000], [30000, 32768, 65534, 65535]], dtype=np.uint16)
    image = read_upright(save(tmp_path / f"deep.{ending}", Image.fromarray(values)))
    expected = np.round(values / 65535 * 255).astype(np.uint8)
    for channel in range(3):
        np.testing.assert_array_equal(image.pixels[:, :, channel], expected)
    (note,) = image.notes
    assert note.startswith("16-bit grey, its values 0 to 65535 scaled from 0-65535 to 0-255")


def test_big_endian_16_bit_grey() -> None:
    values = np.array([[0, 257], [65535, 514]], dtype=">u2")
    image = upright(Image.frombytes("I;16B", (2, 2), values.tobytes()))
    np.testing.assert_array_equal(image.pixels[:, :, 0], [[0, 1], [255, 2]])


def test_16_bit_grey_is_turned_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.arange(6, dtype=np.uint16).reshape(2, 3) * 2570
    path = save(tmp_path / "deep.png", Image.fromarray(values), exif=exif)
    image = read_upright(path)
    np.testing.assert_array_equal(image.pixels[:, :, 0], (values // 257).T[:, ::-1])
    assert len(image.notes) == 2


def test_16_bit_colour_keeps_its_range(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    path.write_bytes(_png16([[(0, 32896, 65535), (257, 514, 65278)]]))
    np.testing.assert_array_equal(read_upright(path).pixels, [[[0, 128, 255], [1, 2, 254]]])


def _png16(rows: list[list[tuple[int, int, int]]]) -> bytes:
    """A PNG file with 16 bits per channel, which Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    body = b"".join(b"\0" + b"".join(struct.pack(">3H", *p) for p in row) for row in rows)
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 16, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n"
    return (
        start + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    )


def test_floating_point_is_refused_with_its_range(tmp_path: Path) -> None:
    path = save(tmp_path / "f.tif", Image.fromarray(np.array([[0.0, 0.5]], dtype=np.float32)))
    refused(path, "floating-point picture (mode F, values 0 to 0.5)", "save it with 8 bits")


@pytest.mark.parametrize("value", [-1, 65536])
def test_32_bit_beyond_16_is_refused(tmp_path: Path, value: int) -> None:
    values = np.array([[0, value]], dtype=np.int32)
    path = save(tmp_path / "i.tif", Image.fromarray(values))
    refused(path, "32-bit picture (mode I, values")


def test_a_mode_without_a_way_to_rgb_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "lab.tif", Image.new("LAB", (4, 4)))

    def refuse(*_: object) -> None:  # as Pillow did before it could
        raise ValueError("conversion from LAB to RGB not supported")

    monkeypatch.setattr(Image.Image, "convert", refuse)
    refused(path, "mode LAB cannot be converted to RGB", "save it as RGB")


# ---------------------------------------------------------------- frames


@pytest.mark.parametrize(
    ("ending", "word"), [("gif", "frames"), ("webp", "frames"), ("tif", "pages")]
)
def test_the_first_of_several_frames_is_used(tmp_path: Path, ending: str, word: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if ending == "webp" else {}
    path = tmp_path / f"moving.{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    image = read_upright(path)
    assert (image.pixels == [255, 0, 0]).all()
    assert image.notes == (f"only the first of its 3 {word} is used",)


# ---------------------------------------------------------------- what cannot be read


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.jpg", "not found")


def test_folder(tmp_path: Path) -> None:
    refused(tmp_path, "a folder, not a picture")


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.jpg"
    path.touch()
    refused(path, "an empty file (0 bytes)")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"<!DOCTYPE html><html>403</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC photograph"),
        (b"hello", "not a picture that Pillow knows (it begins with b'hello')"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    refused(path, part)


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp", "bmp", "gif"])
@pytest.mark.parametrize("share", [0.05, 0.6])
def test_cut_off_file(tmp_path: Path, ending: str, share: float) -> None:
    buffer = io.BytesIO()
    noise = np.random.RandomState(0).randint(0, 255, (64, 64, 3), dtype=np.uint8)
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper())
    Image.fromarray(noise).save(buffer, format=kind)
    content = buffer.getvalue()
    path = tmp_path / f"half.{ending}"
    path.write_bytes(content[: int(len(content) * share)])
    refused(path)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(PIXELS))

    def deny(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", deny)
    refused(path, "no permission to read it")


def test_no_pixels(tmp_path: Path) -> None:
    path = tmp_path / "nothing.bmp"
    content = bytearray(b"BM" + bytes(52))
    struct.pack_into("<I", content, 10, 54)
    struct.pack_into("<IiiHHI", content, 14, 40, 0, 0, 1, 24, 0)
    path.write_bytes(bytes(content))
    refused(path)


def test_more_pixels_than_the_limit_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "large.png", Image.new("1", (300, 200)))

    def decode(*_: object) -> None:
        raise AssertionError("the pixels were decoded")

    with monkeypatch.context() as patched:
        patched.setattr("PIL.ImageFile.ImageFile.load", decode)
        refused(path, "300 x 200 pixels", "the limit of 59999", max_pixels=59999)
    assert read_upright(path, max_pixels=60000).pixels.shape == (200, 300, 3)


def test_the_limit_stands_in_for_that_of_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "large.png", Image.new("1", (30, 20)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_upright(path).pixels.shape == (20, 30, 3)
    assert Image.MAX_IMAGE_PIXELS == 100
