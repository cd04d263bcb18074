"""Opening of image files whose headers may be hostile: limits on what Pillow reads before and while it decodes.

Pillow reads some headers byte by byte, joins others again and again, and copies a part of the file as often as the header
names it: a file of a few megabytes can take minutes and all memory. So the reads are counted.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageFile

from common.errors import UserError

MAX_FILE_BYTES = 512 << 20
HEADER_READS = 5000
HEADER_BYTES = 64 << 10  # in addition to twice the size of the file
PIXEL_READS = 100_000  # in addition to one for every PIXEL_READ_BYTES of the file
PIXEL_READ_BYTES = 256
EXIF = b"Exif\0\0"
EXIF_BYTES = 128 << 10  # twice what one segment of a JPEG file holds
MAX_STRIPS = 100_000  # of a TIFF file
STRIP_TAGS = (273, 279, 324, 325)  # offsets and sizes of strips and tiles
SLOW_PIXELS = 1_000_000  # of an image that Pillow decodes in Python
SLOW_READS = 4  # of such a decoder, for one pixel
MAX_COMMENTS = 1000  # of a PPM file in text form, each of which copies a megabyte


class CountedFile(io.BufferedReader):
    """A file that raises UserError once it is read in more pieces, or more of it is read, than is allowed.

    Attributes:
        reads: how many reads are still allowed.
        bytes: how many bytes may still be read; None for any number.
    """

    def __init__(self, source: Path | bytes) -> None:
        try:
            super().__init__(io.BytesIO(source) if isinstance(source, bytes) else io.FileIO(source))
        except OSError as error:
            raise UserError(f"cannot read {source!s}: {error.strerror}; check its permissions") from error
        self.label = "the image" if isinstance(source, bytes) else str(source)
        self.size = self.seek(0, os.SEEK_END)
        self.seek(0)
        if self.size > MAX_FILE_BYTES:
            self.refuse(f"has {self.size >> 20} MiB, more than {MAX_FILE_BYTES >> 20}")
        self.reads = HEADER_READS
        self.bytes: int | None = 2 * self.size + HEADER_BYTES
        self.exif = EXIF_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        """As any file."""
        data = super().read(size)
        self.reads -= 1
        if self.bytes is not None:
            self.bytes -= len(data)
        if data.startswith(EXIF):
            self.exif -= len(data)
        if self.reads < 0 or (self.bytes is not None and self.bytes < 0):
            self.refuse("has too many parts or a too long comment")
        if self.exif < 0:
            self.refuse("has too much EXIF data")
        return data

    def refuse(self, what: str) -> None:
        """Raise the UserError that says `what` the file has."""
        raise UserError(f"{self.label} {what}: save it again as PNG, without comments and other metadata")


@contextmanager
def open_bounded(source: Path | bytes, formats: Sequence[str]) -> Iterator[ImageFile.ImageFile]:
    """The opened image of a file, of which only the header is read; its pixels can be loaded within the limits.

    Args:
        source: the file, or what it holds.
        formats: those of Pillow that are tried.

    Raises:
        UserError: a path that names no file, the file is too large, or its header is longer or in more parts than an image
            needs. A later `load` raises it for pixels in too many parts.
        OSError, SyntaxError, ValueError and others: Pillow's errors for damaged files.
    """
    if isinstance(source, Path):
        check_file(source)
    with CountedFile(source) as file:
        if count_strips(file) > MAX_STRIPS:
            file.refuse(f"has more than {MAX_STRIPS} strips")
        file.seek(0)
        with Image.open(file, formats=tuple(formats)) as image:
            file.bytes, file.reads = None, PIXEL_READS + file.size // PIXEL_READ_BYTES
            if image.tile and image.tile[0][0] in Image.DECODERS:  # decoders that are written in Python
                check_slow(image, file)
            yield image


def check_file(path: Path) -> None:
    """Raise UserError unless `path` names a file: not a folder, a pipe or a device, which could block without end."""
    try:
        found = path.is_file()
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise UserError(f"no image {path}: {error.strerror}; check the path") from error
    if not found:
        why = "check the path"
        if path.is_dir():
            why = "it is a folder; name a file"
        elif path.exists():
            why = "it is a device or a pipe; name a file"
        raise UserError(f"no image {path}: {why}")


def count_strips(file: CountedFile) -> int:
    """The number of strips or tiles that the first directory of a TIFF file names; 0 for other and damaged files.

    Pillow makes a Python object for each before anything else is checked.
    """
    head = file.read(16)
    if head[:2] not in (b"II", b"MM") or len(head) < 16:
        return 0
    order, big = "<" if head[:2] == b"II" else ">", head[2] == 43
    entry = struct.Struct(order + ("HHQ8x" if big else "HHL4x"))  # tag, type, count
    file.seek(struct.unpack_from(order + ("Q" if big else "L"), head, 8 if big else 4)[0] % (1 << 62))
    number = file.read(8 if big else 2)
    if len(number) < (8 if big else 2):
        return 0
    entries = file.read(entry.size * min(struct.unpack(order + ("Q" if big else "H"), number)[0], 65535))
    whole = entries[: len(entries) // entry.size * entry.size]
    return max((count for tag, _, count in entry.iter_unpack(whole) if tag in STRIP_TAGS), default=0)


def check_slow(image: ImageFile.ImageFile, file: CountedFile) -> None:
    """Limit the pixels, reads and comments of an image that a decoder in Python reads."""
    pixels = image.width * image.height
    if pixels > SLOW_PIXELS:
        raise UserError(
            f"{file.label} is {image.width} x {image.height} pixels in a form that is slow to read: save it again as PNG"
        )
    file.reads += SLOW_READS * pixels
    if image.tile[0][0] == "ppm_plain":
        file.seek(0)
        if sum(block.count(b"#") for block in iter(lambda: file.read(1 << 20), b"")) > MAX_COMMENTS:
            file.refuse("has too many comments")


def check_exif(image: Image.Image, path: Path) -> None:
    """Raise UserError where a loaded image has more EXIF data than can be parsed: each tag copies what it points to."""
    for key in ("exif", "Raw profile type exif"):
        if len(image.info.get(key, "")) > EXIF_BYTES:
            raise UserError(f"{path} has too much EXIF data: save it again as PNG, without metadata")
