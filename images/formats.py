"""The formats of image files that are read."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

from PIL import Image, features

# The formats, and the library that Pillow needs for each; None: it needs none.
# PostScript is left out: Pillow runs Ghostscript on such files, which executes the programs in them.
LIBRARIES = {
    "PNG": "zlib", "JPEG": "jpg", "WEBP": "webp", "BMP": None, "GIF": None, "TIFF": None, "PPM": None,
    "JPEG2000": "jpg_2000", "AVIF": "avif", "HEIF": None,
}  # fmt: skip


def readable_formats() -> tuple[str, ...]:
    """The formats that are read here, by Pillow's names. HEIF (.heic) is one of them where pillow-heif is installed."""
    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()
    Image.init()
    return tuple(
        name for name, library in LIBRARIES.items() if name in Image.OPEN and (not library or features.check(library))
    )


FORMATS = readable_formats()
# MPO, of cameras with two lenses, is a JPEG file with more than one image, and Pillow reads it as JPEG.
SUFFIXES = tuple(sorted(s for s, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO")))
