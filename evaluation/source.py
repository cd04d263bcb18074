"""Which images are scored: those of a folder, of one split of it, of a training configuration, or the embedded digits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from common.config import load_config
from common.errors import UserError, print_note
from common.model_dir import CONFIG_FILE, PARTS
from images.dataset import DataConfig
from images.folder import Skipped, SplitName, class_folder, list_folder, read_splits

EMBEDDED = "mnist5k"
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
CONFIG_SUFFIXES = (".yaml", ".yml")
LONG = {"train": "training", "val": "validation"}


@dataclass(frozen=True)
class ImageSource:
    """Images to score, found but not read.

    Attributes:
        name: as the user gave it.
        about: the same in words.
        split: "all", "train" or "val".
        data: the data set that is read as a whole, such as the embedded digits; None for the files of a folder.
        root: the folder of the files.
        files: its images; classes: the class of each, "" for none.
        left_out: files and folders that are not counted among the images, by the reason.
    """

    name: str
    about: str
    split: str
    data: DataConfig | None = None
    root: Path = field(default_factory=Path)
    files: Sequence[Path] = ()
    classes: Sequence[str] = ()
    left_out: Skipped = field(default_factory=dict)


def find_source(name: str) -> ImageSource:
    """The images that `name` stands for.

    Args:
        name: a folder (all its images), "FOLDER:val" or "FOLDER:train"; a training configuration (its validation split),
            "CONFIG.yaml:train"; "mnist5k" (its validation split), "mnist5k:train". A file or folder whose own name ends
            in ":val" is meant itself.

    Raises:
        UserError: there are no such images.
    """
    path, split = os.path.expanduser(name), None
    head, _, tail = path.rpartition(":")
    if head and tail in SPLITS and not os.path.exists(path):
        path, split = head, next(known for known in SPLITS if known == tail)
    if path == EMBEDDED:
        return source_of_data(DataConfig(source=EMBEDDED), split or "val", name)
    if path.endswith(CONFIG_SUFFIXES) and os.path.isfile(path):
        return source_of_data(read_data_config(Path(path)), split or "val", name)
    if not path or not os.path.isdir(path):
        raise UserError(
            f"no folder '{path}': give a folder of images, FOLDER:val, a training configuration (.yaml), or {EMBEDDED}"
        )
    root = Path(path)
    if any((root / part / CONFIG_FILE).is_file() for part in PARTS):
        raise UserError(
            f"{path} is a model directory, whose images are plots: give its data as {root / 'config.yaml'}, or a folder"
        )
    return _all_of_folder(root, name) if split is None else _split_of_folder(root, split, DataConfig().holdout, name)


def read_data_config(file: Path) -> DataConfig:
    """The data section of a training configuration, such as the config.yaml of a run. Raises UserError as training."""
    from training.run import RunConfig  # noqa: PLC0415 - with both stages; only configurations need it

    return load_config(RunConfig, file).data


def source_of_data(config: DataConfig, split: SplitName, name: str) -> ImageSource:
    """The images of a training configuration's split. Raises UserError where there are none."""
    if config.source != "folder":
        return ImageSource(name, f"{LONG[split]} split of {config.source}", split, data=config)
    root = Path(config.path)
    if not config.path or not root.is_dir():
        raise UserError(
            f"{name} names no folder of images (data.path is '{config.path}'): give the config.yaml of the run, or FOLDER:val"
        )
    return _split_of_folder(root, split, config.holdout, name)


def _split_of_folder(root: Path, split: SplitName, holdout: float, name: str) -> ImageSource:
    found = read_splits(root, holdout)
    for note in found.notes:
        print_note(note)
    part = found.train if split == "train" else found.val
    by_hash = found.train.root == found.val.root
    how = f"by a hash of the names, with a fraction of {holdout:g} for validation" if by_hash else f"{part.root.name}/"
    classes = [class_folder(file, part.root) for file in part.files]
    return ImageSource(
        name, f"{LONG[split]} split of {root} ({how})", split, None, root, part.files, classes, found.skipped
    )


def _all_of_folder(root: Path, name: str) -> ImageSource:
    listing = list_folder(root)
    found = read_splits(root, DataConfig().holdout, listing)
    class_roots = dict.fromkeys(listing.images, root)
    if found.train.root != root:  # below folders of splits, such as train/, the classes are one level deeper
        inside = [file for file in listing.images if file.parent != root]
        class_roots |= {file: root / file.relative_to(root).parts[0] for file in inside}
        folders = ", ".join(sorted({f"{class_roots[file].name}/" for file in inside}))
        print_note(
            f"all images of {root} are scored, those of {folders}: give {name}:val for the validation images alone"
        )
    classes = [class_folder(file, class_roots[file]) for file in listing.images]
    return ImageSource(name, f"all images of {root}", "all", None, root, listing.images, classes, listing.skipped)
