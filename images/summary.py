"""What is printed about a data set before work starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from images.dataset import ImageData, Images
from images.folder import OTHER_FORMAT, Skipped

SHOWN_CLASSES = 12
SHOWN_NAMES = 3


def split_line(train: int, val: int) -> str:
    """The numbers of images in both splits."""
    return f"{train:,} images for training, {val:,} for validation"


def class_line(counts: Mapping[str, int]) -> str:
    """The classes with their numbers of training images; of many classes the first ones, and the least and the most."""
    if not counts:
        return "no classes"
    shown = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:SHOWN_CLASSES])
    title = f"{len(counts):,} class{'es' if len(counts) > 1 else ''} with their training images: {shown}"
    if len(counts) <= SHOWN_CLASSES:
        return title
    return f"{title}, ...; {min(counts.values()):,} to {max(counts.values()):,} each"


def skipped_lines(skipped: Skipped, root: Path) -> list[str]:
    """One line for each reason why files are left out: how many, and a few of their names."""
    return [
        f"left out: {len(files):,} {reason} ({_examples(reason, files, root)})" for reason, files in skipped.items()
    ]


def decoded_lines(train: Images, val: Images) -> list[str]:
    """What decoding has shown: images that were not square, files that do not decode."""
    lines = []
    in_memory = [images for images in (train, val) if isinstance(images, ImageData)]
    cropped = sum(images.cropped for images in in_memory)
    if cropped:
        lines.append(f"{cropped:,} of {sum(map(len, in_memory)):,} images are not square and were cropped")
    skipped = [file for images in in_memory for file in images.skipped]
    if skipped:
        names = _shortened([str(file) for file in skipped])
        lines.append(f"left out: {len(skipped):,} files that do not decode ({names})")
    if len(in_memory) < 2:
        lines.append("files are decoded when they are needed: one that does not decode is replaced by the next one")
    return lines


def _examples(reason: str, files: Iterable[Path], root: Path) -> str:
    if reason == OTHER_FORMAT:  # what matters is whether there are images among them
        suffixes = Counter(file.suffix.lower() or "no suffix" for file in files)
        return _shortened([f"{suffix} {count:,}" for suffix, count in suffixes.most_common()])
    return _shortened([str(file.relative_to(root)) for file in files])


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN_NAMES]) + (", ..." if len(names) > SHOWN_NAMES else "")
