"""The sources of `data.source`: what they hold, before anything is decoded, and their splits as data sets."""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, SupportsInt, cast

import torch
from PIL import Image
from torch import Tensor

from common.errors import UserError
from images.dataset import DataConfig, ImageData, Images, load_mnist5k, read_split
from images.folder import SplitName, class_folder, read_splits
from images.squares import fit_square, stack_squares
from images.summary import class_line, skipped_lines, split_line


class Source(Protocol):
    """A source of images.

    Attributes:
        class_names: the classes of the training images, sorted. They number the labels of both splits; empty without
            classes.
        notes: decisions that the user should know of, each a sentence.
    """

    class_names: list[str]
    notes: list[str]

    def summary(self) -> list[str]:
        """Lines that say what was found."""

    def load(self, split: SplitName) -> Images:
        """The images of a split. Raises UserError where there is none that can be read."""


def open_source(config: DataConfig) -> Source:
    """The source that `config` names. Raises UserError where it cannot be read or its classes do not fit each other."""
    if config.source == "mnist5k":
        return EmbeddedSource(config)
    if config.source.startswith("torchvision:"):
        return TorchvisionSource(config)
    return FolderSource(config)


def load_images(config: DataConfig, split: SplitName) -> Images:
    """The "train" or "val" split that `config` names. Raises UserError where there is nothing to read."""
    return open_source(config).load(split)


class EmbeddedSource:
    """The 5,000 digits of `mnist5k`: the same 450 of each digit for training in every run."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.class_names = [str(digit) for digit in range(10)]
        self.notes: list[str] = []

    def summary(self) -> list[str]:
        """The fixed numbers of images."""
        return ["data: mnist5k", split_line(4500, 500), class_line(dict.fromkeys(self.class_names, 450))]

    def load(self, split: SplitName) -> ImageData:
        """The images of a split. Raises UserError for a size other than 32."""
        return load_mnist5k(self.config, split)


class FolderSource:
    """A folder of images, see `images.folder.read_splits`.

    Raises:
        UserError: there is no such folder, or `read_splits` refuses it.
    """

    def __init__(self, config: DataConfig) -> None:
        self.config, self.root = config, Path(config.path)
        if not config.path or not self.root.is_dir():
            raise UserError(f"no folder '{config.path}': set data.path to a folder of images")
        self.found = read_splits(self.root, config.holdout)
        self.class_names, self.notes = self.found.class_names, self.found.notes

    def summary(self) -> list[str]:
        """Numbers of images in the splits and classes, what is left out, and how images become squares."""
        train, val = self.found.train, self.found.val
        if train.root == val.root:
            how = f"by a hash of the names of the files in {train.root}, data.holdout={self.config.holdout:g}"
        else:
            how = f"{train.root.name}/ and {val.root.name}/"
        counts = Counter(class_folder(file, train.root) for file in train.files) if self.class_names else {}
        size = self.config.image_size
        return [
            f"data: folder {self.root}",
            f"{split_line(len(train.files), len(val.files))} ({how})",
            class_line({name: counts[name] for name in self.class_names}),
            *skipped_lines(self.found.skipped, self.root),
            f"images that are not square are cropped to the square in their centre; all are scaled to {size} x {size}",
        ]

    def load(self, split: SplitName) -> Images:
        """The images of a split, in memory or on demand, see `read_split`. Raises UserError where there are none."""
        return read_split(self.found.split(split), self.class_names, self.config, self.config.flip and split == "train")


class TorchvisionSource:
    """A data set of torchvision that has a training and a test part.

    A label is a number in the training part's `classes`, where torchvision has them, else its own name. A negative one
    means that the image has no class.

    Raises:
        UserError: torchvision has no such data set, or its files cannot be downloaded or read.
    """

    def __init__(self, config: DataConfig) -> None:
        from torchvision import datasets  # noqa: PLC0415 - takes half a second, and the other sources do without it

        self.config, self.name = config, config.source.removeprefix("torchvision:")
        kind = getattr(datasets, self.name, None)
        parameters = inspect.signature(kind).parameters if isinstance(kind, type) else {}
        if kind is None or not {"train", "split"} & parameters.keys():
            raise UserError(
                f"data.source={config.source}: torchvision has no such data set with a training and a test part; "
                "try CIFAR10"
            )
        self.kind, self.parameters = kind, parameters
        self.root = Path(config.path or "data") / self.name
        self.notes: list[str] = []
        self.train = self._read("train")
        self.class_names = self.train.class_names

    def summary(self) -> list[str]:
        """The classes with their numbers of training images."""
        counts = Counter(self.train.labels.tolist())
        return [
            f"data: {self.config.source} in {self.root}, {len(self.train):,} training images",
            class_line({name: counts[number] for number, name in enumerate(self.class_names)}),
        ]

    def load(self, split: SplitName) -> ImageData:
        """The images of a split. Raises UserError as the constructor, and for a label that training does not have."""
        return self.train if split == "train" else self._read(split)

    def _read(self, split: SplitName) -> ImageData:
        config, flip = self.config, self.config.flip and split == "train"
        part: dict[str, object] = {"train": split == "train"} if "train" in self.parameters else {"split": split}
        if "split" in part and split == "val":
            part["split"] = "test"  # what most of them call it
        arguments = part | ({"download": True} if "download" in self.parameters else {})
        squares, numbers, cropped = [], [], 0
        try:
            found = cast(Iterable[tuple[Image.Image, SupportsInt]], self.kind(self.root, **arguments))
            for image, label in found:
                squares.append(fit_square(image, config.image_size, config.channels))
                numbers.append(max(int(label), -1))
                cropped += image.width != image.height
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"data.source={config.source} cannot be read ({reason}): place its files in {self.root}, "
                "or give a folder"
            ) from error
        pixels, labels = stack_squares(squares), torch.tensor(numbers)
        names = self.class_names if split == "val" else _class_names(found, labels)
        self._check_labels(labels, names, split)
        description = f"{config.source} {arguments} {config.image_size} {config.channels} {flip}"
        digest = hashlib.sha256(description.encode())
        digest.update(pixels.numpy().tobytes())
        return ImageData(pixels, labels, names, digest.hexdigest(), [], flip, cropped)

    def _check_labels(self, labels: Tensor, names: list[str], split: SplitName) -> None:
        highest = int(labels.max())
        if highest >= len(names):
            raise UserError(
                f"data.source={self.config.source}: class {highest} is only in its {split} part, and training has "
                f"{len(names)} classes: give a folder of images without this class"
            )


def _class_names(found: object, labels: Tensor) -> list[str]:
    """The data set's own `classes`; the numbers of the labels where it has none, or fewer than labels."""
    names = [str(name) for name in getattr(found, "classes", [])]
    count = int(labels.max()) + 1
    return names if len(names) >= count else [str(number) for number in range(count)]
