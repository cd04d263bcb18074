"""Images to score, read batch by batch: the reference, or a folder of samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor
from tqdm import tqdm

from common.errors import UserError, print_note
from evaluation.report import Part
from evaluation.source import EMBEDDED, ImageSource
from images.dataset import ImageData
from images.sources import load_images
from images.squares import read_squares
from images.summary import skipped_lines

EMBEDDED_SIZE = 32  # pixels a side of the embedded digits
BATCH_IMAGES = 100
BATCH_PIXELS = 2**20  # a batch at 256 pixels then needs a few GB for activations


class ReferenceBatch(NamedTuple):
    """Some of the reference images.

    Attributes:
        pixels: uint8 `(B, C, S, S)`.
        classes: B names, "" for an image without a class.
        files: B paths relative to the folder, "" for images of a data set.
    """

    pixels: Tensor
    classes: list[str]
    files: list[str]


class ReferenceImages:
    """Images in batches, each image once. Those of a folder are decoded when their batch is due.

    Args:
        source: which images.
        size: pixels a side, to which images are cropped and resized.
        channels: 1 or 3.

    Attributes:
        count: number of images that were found; of a folder the number of files, of which some may not decode.
        scored: number of images that the last pass has read so far.
        class_counts: number of images of each class, "" for no class.

    Raises:
        UserError: there are fewer than 2 images, or the source has no images of this size.
    """

    def __init__(self, source: ImageSource, size: int, channels: int) -> None:
        self.source, self.size, self.channels = source, size, channels
        self.loaded: ImageData | None = None
        classes = list(source.classes)
        if source.data is not None:
            self.loaded = load_data(source, size, channels)
            classes = self._loaded_classes(slice(None))
        self.class_counts = Counter(classes)
        self.count, self.scored = len(classes), 0
        if self.count < 2:
            raise UserError(f"{source.about}: {self.count} images found and scores need at least 2; add images")
        self.batch_size = max(1, min(BATCH_IMAGES, BATCH_PIXELS // size**2))

    def __iter__(self) -> Iterator[ReferenceBatch]:
        """Images of a data set in their order, those of a folder in the order of their names.

        Raises:
            UserError: at the end, if fewer than 2 files decode.
        """
        self.scored = 0
        return self._of_folder() if self.loaded is None else self._of_data(self.loaded)

    def describe(self, role: str) -> None:
        """Print what was found; `role` names these images."""
        classes = sorted(name for name in self.class_counts if name)
        named = f" in {len(classes)} classes" if classes else ", without classes"
        print_note(
            f"{role}: {self.source.about}: {self.count} images{named}, "
            f"cropped to squares in the middle and read at {self.size} x {self.size} pixels"
        )
        for line in skipped_lines(self.source.left_out, self.source.root):
            print_note(f"{role}: {line}")

    def part(self) -> Part:
        """For the report: which images these are, and how many of them were found, scored and skipped."""
        return {
            "source": self.source.name,
            "split": self.source.split,
            "about": self.source.about,
            "found": self.count,
            "scored": self.scored,
            "skipped": self.count - self.scored,
            "left_out": {reason: len(paths) for reason, paths in self.source.left_out.items()},
            "size": self.size,
            "channels": self.channels,
        }

    def _of_data(self, images: ImageData) -> Iterator[ReferenceBatch]:
        with tqdm(total=self.count, desc="score", unit="image") as bar:
            for start in range(0, self.count, self.batch_size):
                batch = slice(start, start + self.batch_size)
                classes = self._loaded_classes(batch)
                self.scored += len(classes)
                yield ReferenceBatch(images.pixels[batch], classes, [""] * len(classes))
                bar.update(len(classes))

    def _of_folder(self) -> Iterator[ReferenceBatch]:
        source, class_of = self.source, dict(zip(self.source.files, self.source.classes, strict=True))
        files = tqdm(source.files, desc="read and score", unit="image")
        for batch in read_squares(files, self.size, self.channels, self.batch_size):
            self.scored += len(batch.files)
            names = [file.relative_to(source.root).as_posix() for file in batch.files]
            yield ReferenceBatch(batch.pixels, [class_of[file] for file in batch.files], names)
        if self.scored < 2:
            raise UserError(
                f"{self.scored} of {self.count} images in {source.root} decode and scores need 2: add images"
            )
        if self.scored < self.count:
            print_note(f"{self.count - self.scored} of {self.count} images in {source.root} do not decode: skipped")

    def _loaded_classes(self, batch: slice) -> list[str]:
        assert self.loaded is not None
        names = [*self.loaded.class_names, ""]  # label -1: no class
        return [names[label] for label in self.loaded.labels[batch].tolist()]


def load_data(source: ImageSource, size: int, channels: int) -> ImageData:
    """The images of a source that is read as a whole. Raises UserError where they cannot be had at `size`."""
    assert source.data is not None and source.split != "all"
    if source.data.source == EMBEDDED and size != EMBEDDED_SIZE:
        raise UserError(
            f"{EMBEDDED} is {EMBEDDED_SIZE} pixels wide and not {size}: give a folder of images as the reference"
        )
    data = replace(source.data, image_size=size, channels=channels, flip=False)
    images = load_images(data, "train" if source.split == "train" else "val")
    assert isinstance(images, ImageData)  # only folders are read from their files
    return images
