"""Data folders as people have them: hidden and foreign files, odd names, damaged images, links, splits of every name."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from random import Random

from PIL import Image

from benchmarks.hostile_case import Case

CLASSES = ("cat", "dog", "0", "10", "9", "Zebra", "\u00e9t\u00e9", "\u65e5\u672c", "with space", "-x", "a\x1b[31mb",
           "\udcff\udcfe", "x" * 200, "none", "random", "#1", "train2", "a.b")  # fmt: skip
HIDDEN = (".hidden", "__MACOSX", ".ipynb_checkpoints", ".git")
SPLITS = (("train", "val"), ("train", "valid"), ("train", "validation"), ("train", "test"))
SUFFIXES = (".png", ".jpg", ".JPEG", ".webp", ".bmp", ".gif", ".tif", ".ppm")
JUNK = (("Thumbs.db", b"\0"), (".DS_Store", b"\0"), ("._x.png", b"\0\5\x16\7"), ("notes.txt", b"hello"), ("empty.png", b""),
        ("text.png", b"no image"), ("half.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), ("\udcff.txt", b""))  # fmt: skip
STEP = 11  # between the grey levels of two classes
TINY = [
    "data.image_size=8", "data.channels=1", "data.source=folder", "data.flip=false", "tokenizer.width=8", "tokenizer.blocks=1",
    "tokenizer.quantizer.codebook_size=16", "tokenizer.quantizer.kmeans_init=false", "tokenizer.loss.perceptual=none",
    "tokenizer.train.steps=2", "tokenizer.train.batch_size=2", "tokenizer.train.warmup_steps=1",
]  # fmt: skip
TRAIN_LIMIT_S = 30.0


class FolderWriter:
    """Writes images of one grey level for each class, and remembers which level stands for which class."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.truth: dict[int, str | None] = {}

    def level(self, name: str | None) -> int:
        """The grey level of a class; "" for images without a class, None for hidden ones."""
        found = next((level for level, known in self.truth.items() if known == name), None)
        if found is None:
            found = 5 + STEP * len(self.truth)
            self.truth[found] = name
        return found

    def image(self, folder: Path, stem: str, name: str | None) -> None:
        """One image of class `name` in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        size = self.rng.choice(((8, 8), (16, 16), (9, 20), (1, 1), (33, 8)))
        image = Image.new(self.rng.choice(("L", "RGB")), size)
        image.paste((self.level(name),) * len(image.getbands()), (0, 0, *size))
        suffix = self.rng.choice(SUFFIXES)
        image.save(folder / f"{stem}{suffix}", format=None if suffix != ".JPEG" else "JPEG")

    def classes(self, root: Path, names: Sequence[str]) -> None:
        """Folders of classes in `root`, some of them empty, nested or a link."""
        for name in names:
            folder = root / name
            if self.rng.random() < 0.1:
                folder = root.parent / f".target{len(self.truth)}" / name
                folder.mkdir(parents=True, exist_ok=True)
                root.mkdir(parents=True, exist_ok=True)
                if not (root / name).exists():
                    (root / name).symlink_to(folder)
            inner = folder / "deeper" if self.rng.random() < 0.1 else folder
            for index in range(self.rng.randint(0, 9)):
                self.image(inner, f"{self.rng.choice(('', 'a ', '-', 'b#'))}{index}", name)

    def junk(self, root: Path) -> None:
        """Files and folders that are no images of the data set."""
        places = [root, *(path for path in root.rglob("*") if path.is_dir())]
        for name, content in self.rng.sample(JUNK, self.rng.randint(0, 3)):
            (self.rng.choice(places) / name).write_bytes(content)
        if self.rng.random() < 0.3:
            self.image(self.rng.choice(places) / self.rng.choice(HIDDEN), "a", None)
        if self.rng.random() < 0.2:
            self.image(root, "stray", "")
        place = self.rng.choice(places)
        if self.rng.random() < 0.1:
            (place / "loop").symlink_to(place)
        if self.rng.random() < 0.1:
            (place / "gone.png").symlink_to(place / "nowhere")
        if self.rng.random() < 0.1:
            os.mkfifo(place / "pipe.png")


def write_folder(rng: Random, root: Path) -> dict[int, str | None]:
    """Write a data folder; which grey level stands for which class."""
    writer = FolderWriter(rng)
    root.mkdir()
    names = rng.sample(CLASSES, rng.randint(1, 4))
    layout = rng.choice(("classes", "classes", "flat", "splits", "splits", "train alone", "empty"))
    if layout == "flat":
        for index in range(rng.randint(1, 9)):
            writer.image(root, str(index), "")
    elif layout == "classes":
        writer.classes(root, names)
    elif layout != "empty":
        for split in rng.choice(SPLITS) if layout == "splits" else ("train",):
            writer.classes(root / split, names)
            names = names[rng.choice((0, 0, 0, 1)) :]  # the validation split may lack a class
            names += rng.sample(CLASSES, 1) if rng.random() < 0.1 else []  # or have one of its own
    writer.junk(root)
    return writer.truth


def hostile_folder(rng: Random, model: Path, folder: Path) -> Case:
    """A data folder, read with its labels, or one time in five trained on for two steps."""
    del model
    root, truth = folder / "data", folder / "truth.json"
    levels = write_folder(rng, root)
    truth.write_text(json.dumps(levels), encoding="utf-8")
    if rng.random() < 0.2:
        arguments = ["tokenizer", "--config", "configs/mnist.yaml", f"data.path={root}", f"output_dir={folder / 'run'}"]
        return Case("folder, training", "train.py", [*arguments, *TINY], limit_s=TRAIN_LIMIT_S)
    return Case("folder, labels", "labels", [str(root), str(truth)])
