"""Reference images: the images that scores compare with, read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from tqdm import tqdm

from common.errors import UserError
from images.dataset import DataConfig, ImageData, load_mnist5k
from images.folder import class_folder, find_images
from images.squares import read_squares

EMBEDDED = "mnist5k"
BATCH_IMAGES = 100
BATCH_PIXELS = 2**20  # a batch at 256 pixels then needs a few GB for activations


class ReferenceBatch(NamedTuple):
    """Some of the reference images.

    Attributes:
        pixels: uint8 `(B, C, S, S)`.
        classes: B names, "" for an image without a class.
        files: B paths relative to the folder, "" for embedded images.
    """

    pixels: Tensor
    classes: list[str]
    files: list[str]


class ReferenceImages:
    """Images in batches, each image once. Those of a folder are decoded when their batch is due.

    Args:
        source: "mnist5k" for its validation split, or a folder, of which all images are taken. A class is a folder
            directly under it; images in the folder itself have no class.
        size: pixels a side, to which images are cropped and resized.
        channels: 1 or 3.

    Attributes:
        count: number of images; of a folder the number of files, of which some may not decode.

    Raises:
        UserError: there are fewer than 2 images.
    """

    def __init__(self, source: str | Path, size: int, channels: int) -> None:
        self.source, self.size, self.channels = source, size, channels
        self.embedded: ImageData | None = None
        self.files: list[Path] = []
        if source == EMBEDDED:
            self.embedded = load_mnist5k(DataConfig(source=EMBEDDED, image_size=size, channels=channels), "val")
            self.count = len(self.embedded)
        else:
            self.files = find_images(Path(source))
            self.count = len(self.files)
        if self.count < 2:
            raise UserError(f"{source} holds {self.count} image and scores need at least 2: add images")
        self.batch_size = max(1, min(BATCH_IMAGES, BATCH_PIXELS // size**2))

    def __iter__(self) -> Iterator[ReferenceBatch]:
        """Embedded images in their order, those of a folder in the order of their names.

        Raises:
            UserError: at the end, if fewer than 2 files decode.
        """
        return self._of_folder(Path(self.source)) if self.embedded is None else self._of(self.embedded)

    def _of(self, images: ImageData) -> Iterator[ReferenceBatch]:
        with tqdm(total=self.count, desc="score", unit="image") as bar:
            for start in range(0, self.count, self.batch_size):
                batch = slice(start, start + self.batch_size)
                classes = [images.class_names[label] for label in images.labels[batch].tolist()]
                yield ReferenceBatch(images.pixels[batch], classes, [""] * len(classes))
                bar.update(len(classes))

    def _of_folder(self, root: Path) -> Iterator[ReferenceBatch]:
        decoded = 0
        files = tqdm(self.files, desc="read and score", unit="image")
        for batch in read_squares(files, self.size, self.channels, self.batch_size):
            decoded += len(batch.files)
            classes = [class_folder(file, root) for file in batch.files]
            yield ReferenceBatch(batch.pixels, classes, [file.relative_to(root).as_posix() for file in batch.files])
        if decoded < 2:
            raise UserError(f"{decoded} of {self.count} images in {root} decode and scores need 2: add images")
