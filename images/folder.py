"""Folders of images: which files are images, which folders are splits, and which folders are classes."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import deque
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from common.errors import UserError
from images.formats import SUFFIXES

SplitName = Literal["train", "val"]
TRAIN_FOLDERS = ("train", "training")
VAL_FOLDERS = ("val", "valid", "validation", "test")  # the first of them that holds images is the validation split
# What operating systems, archives and network drives leave in folders, in lower case. Names that begin with a dot are
# left out too: .ipynb_checkpoints, and the ._x.png that macOS writes beside x.png.
SYSTEM_NAMES = frozenset(
    {"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "@eadir", "#recycle"}
)

HEIF_SUFFIXES = (".heic", ".heif", ".hif")  # not in SUFFIXES where pillow-heif is not installed

# Why an entry of a folder is left out.
HIDDEN = "hidden or system files and folders"
NO_FILE = "broken links and folders that cannot be read"
TWICE = "links to a folder that is read already"
OTHER_FORMAT = "files of other formats"
STRAY = "images beside the folders of the classes"
BESIDE_SPLITS = "files and folders beside those of the splits"
Skipped = dict[str, list[Path]]


class Listing(NamedTuple):
    """The content of a folder.

    Attributes:
        images: files with the suffix of an image, sorted.
        skipped: what is left out, by its reason.
    """

    images: list[Path]
    skipped: Skipped


class Split(NamedTuple):
    """The images of one split.

    Attributes:
        root: the folder whose direct subfolders are the classes.
        files: sorted.
    """

    root: Path
    files: list[Path]


class FolderSplits(NamedTuple):
    """Both splits of a folder.

    Attributes:
        train, val: one of them may be empty.
        class_names: sorted names of the training images' classes, which number the validation images too; empty for a
            folder without classes.
        skipped: what is left out, by its reason.
        notes: decisions that the user should know of, each a sentence.
    """

    train: Split
    val: Split
    class_names: list[str]
    skipped: Skipped
    notes: list[str]

    def split(self, name: SplitName) -> Split:
        """The split of this name. Raises UserError where it has no images."""
        part = self.train if name == "train" else self.val
        if not part.files:
            raise UserError(f"too few images in {part.root} for the {name} split: change data.holdout or add images")
        return part


def find_images(root: Path) -> list[Path]:
    """All images under `root`, sorted, see `list_folder`. Raises UserError where there are none."""
    return list_folder(root).images


def class_folder(file: Path, root: Path) -> str:
    """The class of an image: the folder directly under `root` that holds `file`, "" for a file in `root` itself."""
    return class_name(_top_folder(file, root))


@cache
def class_name(folder: str) -> str:
    r"""The name of the class in a folder of this name: Unicode NFC, bytes that are not UTF-8 written as \xE9.

    macOS stores decomposed letters; the same word typed on a keyboard, or copied to Linux, is composed.
    """
    return unicodedata.normalize("NFC", os.fsencode(folder).decode("utf-8", "backslashreplace"))


def list_folder(root: Path) -> Listing:
    """The images in `root` and in all folders under it. Links are followed; hidden and system names are left out.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    if not root.is_dir():
        raise UserError(f"no folder '{root}': check the path")
    images: list[Path] = []
    skipped: Skipped = {}
    # A real folder is read once in each folder directly under the root. So a link into itself ends, and two classes may
    # be links to one folder.
    waiting = deque([(root, {os.path.realpath(root)})])
    while waiting:
        folder, seen = waiting.popleft()
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:
            skipped.setdefault(NO_FILE, []).append(folder)
            continue
        for entry in entries:
            path, kind = folder / entry.name, _kind(entry)
            if entry.name.startswith(".") or entry.name.lower() in SYSTEM_NAMES:
                skipped.setdefault(HIDDEN, []).append(path)
            elif kind == "folder":
                real = os.path.realpath(path)
                if real in seen:
                    skipped.setdefault(TWICE, []).append(path)
                else:
                    inside = {*seen, real} if folder == root else seen
                    inside.add(real)
                    waiting.append((path, inside))
            elif kind == "other":
                skipped.setdefault(NO_FILE, []).append(path)
            elif path.suffix.lower() in SUFFIXES:
                images.append(path)
            else:
                skipped.setdefault(OTHER_FORMAT, []).append(path)
    if not images:
        raise UserError(f"no images in {root}: looked for {', '.join(SUFFIXES)} in it and in its folders")
    return Listing(sorted(images), skipped)


def read_splits(root: Path, holdout: float, listing: Listing | None = None) -> FolderSplits:
    """Both splits of a folder of images, and its classes.

    - `root`/train with val, valid, validation or test beside it, in any case, are the splits.
    - `root`/train alone, or else `root` itself, is split by a hash of each file's name. A class all of whose images
      would be for validation keeps one of them for training.
    - A folder has classes unless more images are in it directly than in its subfolders. Those beside the subfolders are
      then left out.

    Args:
        listing: of `root`, where the caller has it already.

    Raises:
        UserError: there are no images, a folder for validation but none for training, or a class that only the
            validation images have.
    """
    images, found_skipped = listing or list_folder(root)
    skipped = dict(found_skipped)
    found = _choose_splits(root, images, holdout, skipped)
    heif = sum(file.suffix.lower() in HEIF_SUFFIXES for file in skipped.get(OTHER_FORMAT, []))
    if heif:
        found.notes.append(f"{heif} HEIF files (.heic) are left out: they can be read after pip install pillow-heif")
    return found


def _choose_splits(root: Path, images: list[Path], holdout: float, skipped: Skipped) -> FolderSplits:
    inside = _by_folder(images, root)
    tops = sorted(inside.keys() - {""}, key=lambda name: (name.lower(), name != name.lower()))
    train = next((name for wanted in TRAIN_FOLDERS for name in tops if name.lower() == wanted), None)
    val = next((name for wanted in VAL_FOLDERS for name in tops if name.lower() == wanted), None)
    others = [name for name in tops if name.lower() not in (*TRAIN_FOLDERS, *VAL_FOLDERS)]
    if train is None and val is not None and not others and "" not in inside:
        raise UserError(f"{root} holds {val}/ and no train/: add it, or set data.path={root / val} to use {val}/ alone")
    if train is None or (val is None and others):
        notes = [f"{train}/ is a class, because folders of other classes are beside it"] if train is not None else []
        return _split_by_hash(root, images, holdout, skipped, notes)
    beside = [inside[name] for name in inside if name not in (train, val)]
    if beside:
        skipped[BESIDE_SPLITS] = [file for files in beside for file in files]
    if val is None:
        notes = [f"{root} holds no folder for validation: {train}/ is split by a hash of the files' names"]
        return _split_by_hash(root / train, inside[train], holdout, skipped, notes)
    return _split_by_folders(Split(root / train, inside[train]), Split(root / val, inside[val]), skipped)


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "file", "other"]:
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:  # a link to itself
        return "other"


def _split_by_folders(train: Split, val: Split, skipped: Skipped) -> FolderSplits:
    notes = ["the images of train and val are the same"] if train.root.samefile(val.root) else []
    class_names, kept = _classes(train, skipped, notes)
    val_names, val_kept = _classes(val, skipped, notes)
    notes += _class_notes(Split(train.root, kept), class_names)
    unknown = sorted(set(val_names) - set(class_names))
    if class_names and unknown:
        raise UserError(
            f"class '{unknown[0]}' is only in {val.root} and not among the classes of {train.root}: "
            "add training images of it, or rename or remove the folder"
        )
    if class_names and not val_names:
        notes.append(f"{val.root} has no folders of classes: its images are scored without a class")
    if val_names and not class_names:
        notes.append(f"{train.root} has no classes, so those of {val.root} are not used")
    return FolderSplits(Split(train.root, kept), Split(val.root, val_kept), class_names, skipped, notes)


def _split_by_hash(root: Path, images: list[Path], holdout: float, skipped: Skipped, notes: list[str]) -> FolderSplits:
    class_names, kept = _classes(Split(root, images), skipped, notes)
    notes += _class_notes(Split(root, kept), class_names)
    positions = [_position(file, root) for file in kept]
    for_training = [position >= holdout for position in positions]
    if class_names:
        classes = [class_folder(file, root) for file in kept]
        trained = {name for name, wanted in zip(classes, for_training, strict=True) if wanted}
        missing = sorted(set(class_names) - trained)
        for name in missing:
            of_class = [index for index, other in enumerate(classes) if other == name]
            for_training[max(of_class, key=lambda index: positions[index])] = True
        if missing:
            notes.append(
                f"classes all of whose images would be for validation: {len(missing)} (such as '{missing[0]}'); one image "
                "of each is used for training"
            )
    train = [file for file, wanted in zip(kept, for_training, strict=True) if wanted]
    val = [file for file, wanted in zip(kept, for_training, strict=True) if not wanted]
    return FolderSplits(Split(root, train), Split(root, val), class_names, skipped, notes)


def _classes(split: Split, skipped: Skipped, notes: list[str]) -> tuple[list[str], list[Path]]:
    """Sorted names of the classes, empty where there are none, and the images that are kept."""
    folders = _by_folder(split.files, split.root)
    beside = folders.pop("", [])
    inside = len(split.files) - len(beside)
    if len(beside) > inside:
        if inside:
            notes.append(
                f"no classes: {len(beside)} images are in {split.root} itself, and {inside} in folders; all are used"
            )
        return [], split.files
    if not beside:
        return sorted({class_name(folder) for folder in folders}), split.files
    skipped.setdefault(STRAY, []).extend(beside)
    kept = [file for file in split.files if _top_folder(file, split.root)]
    return sorted({class_name(folder) for folder in folders}), kept


def _class_notes(split: Split, class_names: list[str]) -> list[str]:
    """Sentences on classes that are probably not what the user meant."""
    notes = []
    if len(class_names) == 1 and all(len(file.parts) > len(split.root.parts) + 2 for file in split.files):
        folder = split.root / _top_folder(split.files[0], split.root)
        notes.append(f"all images are in folders of {folder}: if these are the classes, set data.path={folder}")
    spellings: dict[str, list[str]] = {}
    for name in class_names:
        spellings.setdefault(name.casefold(), []).append(f"'{name}'")
    notes += [f"classes {', '.join(same)} differ only in case" for same in spellings.values() if len(same) > 1]
    return notes


def _by_folder(files: Iterable[Path], root: Path) -> dict[str, list[Path]]:
    """`files` by the folder directly under `root` that holds them, "" for files in `root` itself."""
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(_top_folder(file, root), []).append(file)
    return found


def _top_folder(file: Path, root: Path) -> str:
    # Not relative_to, which takes ten times as long: folders may hold a million files.
    parts, depth = file.parts, len(root.parts)
    return parts[depth] if len(parts) > depth + 1 else ""


def _position(file: Path, root: Path) -> float:
    """A number in [0, 1) that depends on a file's name alone, so that adding files moves no other file between splits."""
    name = "/".join(file.parts[len(root.parts) :])
    return int(hashlib.sha256(os.fsencode(name)).hexdigest()[:8], 16) / 16**8
