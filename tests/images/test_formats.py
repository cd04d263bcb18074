import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from images.formats import FORMATS, SUFFIXES, readable_formats
from images.io import read_image


@pytest.mark.parametrize(("suffix", "name"), [(".jfif", "JPEG"), (".jpe", "JPEG"), (".pbm", "PPM"), (".mpo", "JPEG"),
                                              (".avif", "AVIF"), (".jp2", "JPEG2000"), (".webp", "WEBP")])  # fmt: skip
def test_every_format_of_this_pillow_is_read(tmp_path, suffix, name):
    if name not in FORMATS:
        pytest.skip("this Pillow lacks the library")
    assert suffix in SUFFIXES
    Image.new("L", (6, 4), 255).save(tmp_path / f"a{suffix}", format=name)
    assert read_image(tmp_path / f"a{suffix}").size == (6, 4)


def test_formats_need_their_libraries_and_postscript_is_never_read(monkeypatch):
    assert {"PNG", "JPEG"} <= set(FORMATS)
    assert not {"EPS", "PDF", "WMF"} & set(FORMATS)
    assert not {".eps", ".ps", ".pdf", ".svg"} & set(SUFFIXES)
    monkeypatch.setattr("images.formats.features.check", lambda library: library != "avif")
    assert "AVIF" not in readable_formats()


def test_heif_is_read_where_its_package_is_installed(monkeypatch):
    def register():
        monkeypatch.setitem(Image.OPEN, "HEIF", (None, None))

    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert "HEIF" not in readable_formats()
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    assert "HEIF" in readable_formats()
