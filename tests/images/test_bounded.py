"""Hostile image files are refused after few reads, and ordinary ones are read as Pillow reads them."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from common.errors import UserError
from images.bounded import EXIF_BYTES, MAX_FILE_BYTES, MAX_STRIPS, open_bounded
from images.io import FORMATS, read_image

MIB = 1 << 20


def encoded(kind, mode="RGB", size=(8, 8)):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    return buffer.getvalue()


def chunk(name, data=b""):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_with(data):
    whole = encoded("PNG")
    return whole[:33] + data + whole[33:]  # after the header chunk


def jpeg_with(data):
    whole = encoded("JPEG")
    return whole[:2] + data + whole[2:]


def gif_with(data):
    whole = encoded("GIF", "P")
    return whole[: whole.index(b",")] + data + whole[whole.index(b",") :]


def tiff(tags, data, big=False, order="<"):
    """A TIFF file whose first directory has `tags` of (tag, type, count, value); `data` follows it."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head += struct.pack(order + "HHQ", 8, 0, 16) if big else struct.pack(order + "L", 8)
    directory = struct.pack(order + ("Q" if big else "H"), len(tags))
    directory += b"".join(struct.pack(order + ("HHQQ" if big else "HHLL"), *tag) for tag in tags)
    return head + directory + bytes(8) + data


IMAGE_TAGS = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
ONE_STRIP = [(273, 4, 1, 8), (278, 3, 1, 8), (279, 4, 1, 64)]


def copying_tags(size, count=20_000):
    """A directory whose tags all point to the same `size` bytes."""
    return [*IMAGE_TAGS, *ONE_STRIP, *[(tag, 7, size, 8) for tag in range(1000, 1000 + count)]]


def many_strips(**kinds):
    return tiff([*IMAGE_TAGS, (273, 4, MAX_STRIPS + 1, 8), (279, 4, MAX_STRIPS + 1, 8)], bytes(MIB), **kinds)


HOSTILE = {
    "ppm of one comment": lambda: b"P6\n#" + b"x" * MIB + b"\n8 8\n255\n" + bytes(192),
    "ppm of many comments": lambda: b"P5\n" + b"#\n" * 100_000 + b"8 8\n255\n" + bytes(64),
    "ppm of white space": lambda: b"P4\n" + b" " * MIB + b"8 8\n" + bytes(8),
    "comments between numbers": lambda: b"P3\n8 8\n255\n" + b"#\n" * 100_000 + b"0 " * 192,
    "numbers of too many pixels": lambda: b"P1\n2000 2000\n" + b"1" * 4_000_000,
    "ppm of an unusual range": lambda: b"P5\n2000 2000\n254\n" + bytes(4_000_000),
    "png of empty chunks": lambda: png_with(chunk(b"abCd") * 20_000),
    "png of texts": lambda: png_with(chunk(b"tEXt", b"a\0b") * 20_000),
    "png of large exif": lambda: png_with(chunk(b"eXIf", tiff(copying_tags(MIB), bytes(MIB)))),
    "jpeg of empty segments": lambda: jpeg_with(b"\xff\xea\0\2" * 50_000),
    "jpeg of much exif": lambda: jpeg_with((b"\xff\xe1\xff\xff" + b"Exif\0\0" + bytes(65527)) * 3),
    "gif of one long comment": lambda: gif_with(b"!\xfe" + (b"\xff" + b"x" * 255) * 20_000 + b"\0"),
    "gif of many comments": lambda: gif_with(b"!\xfe\1x\0" * 20_000),
    "tiff of copies": lambda: tiff(copying_tags(MIB), bytes(MIB)),
    "tiff of strips": many_strips,
    "tiff of strips, big endian": lambda: many_strips(order=">"),
    "tiff of strips, 64 bits": lambda: many_strips(big=True),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused_in_one_line(content, tmp_path):
    (tmp_path / "a.png").write_bytes(content())
    with pytest.raises(UserError, match=r"a\.png .*save it again as PNG") as caught:
        read_image(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


def test_pixels_in_too_many_parts_are_refused(tmp_path):
    packed = zlib.compress(np.random.default_rng(0).bytes(500 * 501), 0)
    header = struct.pack(">IIBBBBB", 500, 500, 8, 0, 0, 0, 0)
    parts = b"".join(chunk(b"IDAT", bytes([byte])) for byte in packed)
    (tmp_path / "a.png").write_bytes(encoded("PNG")[:8] + chunk(b"IHDR", header) + parts + chunk(b"IEND"))
    with pytest.raises(UserError, match="too many parts"):
        read_image(tmp_path / "a.png")


def test_files_of_many_gigabytes_are_refused_before_they_are_read(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.write(encoded("PNG"))
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(UserError, match="has 512 MiB"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pipe", "a device or a pipe"),
        ("", "it is a folder"),
        ("none.png", "check the path"),
        ("x" * 5000, "too long"),
        ("zero\0byte.png", "check the path"),
    ],
)
def test_only_files_are_opened(name, message, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=message):
        read_image(tmp_path / name)


def test_a_device_is_not_opened():
    with pytest.raises(UserError, match="a device or a pipe"):
        read_image("/dev/zero")


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 83, 3), np.uint8))


def exif():
    found = Image.Exif()
    found[274], found[270] = 6, "x" * 30_000  # orientation, description
    return found


def pnginfo():
    info = PngImagePlugin.PngInfo()
    for index in range(100):
        info.add_text(f"key{index}", "value " * 100)
    return info


ORDINARY = {
    "png": ("PNG", {"pnginfo": pnginfo(), "exif": exif(), "icc_profile": bytes(500_000)}),
    "jpeg": ("JPEG", {"exif": exif(), "icc_profile": bytes(500_000), "comment": "x" * 60_000}),
    "progressive jpeg": ("JPEG", {"progressive": True, "optimize": True}),
    "webp": ("WEBP", {"exif": exif(), "quality": 80}),
    "gif": ("GIF", {"comment": b"x" * 1000}),
    "bmp": ("BMP", {}),
    "ppm": ("PPM", {}),
    "raw tiff": ("TIFF", {"strip_size": 1, "icc_profile": bytes(500_000)}),
    "lzw tiff": ("TIFF", {"compression": "tiff_lzw", "exif": exif()}),
    "deflate tiff": ("TIFF", {"compression": "tiff_adobe_deflate", "strip_size": 300}),
    "jpeg tiff": ("TIFF", {"compression": "jpeg"}),
    "big tiff": ("TIFF", {"big_tiff": True}),
}


@pytest.mark.parametrize(("kind", "options"), ORDINARY.values(), ids=ORDINARY)
def test_ordinary_files_are_read_as_pillow_reads_them(kind, options, tmp_path):
    NOISE.save(tmp_path / "a", format=kind, **options)
    with Image.open(tmp_path / "a") as wanted:
        wanted.load()
        assert np.array_equal(read_image(tmp_path / "a"), ImageOps.exif_transpose(wanted.copy()))


@pytest.mark.parametrize("content", [b"P1\n# 0\n3 1\n0 1 1 #2\n", b"P2 3 1 #\n9 0 4\n# a\n9", b"P5 3 1\n9 \0\4\x09"])
def test_small_files_of_the_slow_decoders_are_read(content, tmp_path):
    (tmp_path / "a").write_bytes(content)
    with Image.open(tmp_path / "a") as wanted:
        assert np.array_equal(read_image(tmp_path / "a"), wanted)


def test_every_row_of_a_tall_image_may_be_a_strip(tmp_path):
    Image.new("L", (2, 20_000), 7).save(tmp_path / "a.tif", strip_size=2)
    assert np.asarray(read_image(tmp_path / "a.tif")).min() == 7


def test_the_header_alone_gives_the_size(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded("PNG")[:60])  # without pixels
    with open_bounded(tmp_path / "a.png", FORMATS) as image:
        assert image.size == (8, 8)


def test_the_content_of_a_file_has_the_same_limits():
    with open_bounded(encoded("PNG"), FORMATS) as image:
        assert image.convert("RGB").size == (8, 8)
    with (
        pytest.raises(UserError, match="the image has too many parts"),
        open_bounded(HOSTILE["png of texts"](), FORMATS),
    ):
        pass


def test_exif_of_usual_length_is_read(tmp_path):
    found = Image.Exif()
    found[274], found[270] = 6, "x" * (EXIF_BYTES - 200)
    NOISE.save(tmp_path / "a.png", exif=found)
    assert read_image(tmp_path / "a.png").size == (61, 83)


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded("PNG"))

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("images.bounded.io.FileIO", refuse)
    with pytest.raises(UserError, match=r"cannot read .*a\.png: Permission denied; check its permissions"):
        read_image(tmp_path / "a.png")
