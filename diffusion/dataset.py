"""The encoded data set on disk: written once, memory-mapped afterwards.

A folder `<output_dir>/codes/<key>/` holds codes.npy `(N, h, w)` uint16 or uint32, places.npy `(N,)` int64 and meta.json.
The key is a hash of the tokenizer's weights and of the images, so codes of another tokenizer are never read. Labels are
not stored: they come from the data set in each run, because the same images may have other classes later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from common.files import empty_temporary_directory, install_directory, temporary_path

Encode = Callable[[Tensor], Tensor]  # images (B, C, H, W) -> codes (B, h, w)
Item = tuple[Tensor, Tensor]
PLACES = "places.npy"


class LabelledImages(Protocol):
    """A data set of images; `images.dataset` has three.

    Attributes:
        labels: int64 `(L,)`.
    """

    labels: Tensor

    def __len__(self) -> int:
        """The number of images N."""

    def read(self, key: int) -> tuple[Tensor, int]:
        """The image `(C, H, W)` of a key in [0, N), and the place of its label."""


def codes_key(tokenizer_weights: Path, data_fingerprint: str) -> str:
    """16 hexadecimal digits that change with the tokenizer's weights file or with the data."""
    digest = hashlib.sha256(data_fingerprint.encode())
    with tokenizer_weights.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


class EncodedImages(Dataset[Item]):
    """Codes `(h, w)` int64, read from a folder that `encode_images` wrote, and their label.

    Args:
        labels: of the images that were encoded, int64 `(L,)`.
    """

    def __init__(self, folder: Path, labels: Tensor) -> None:
        self.codes = np.load(folder / "codes.npy", mmap_mode="r")
        self.labels = labels[torch.from_numpy(np.load(folder / PLACES))]

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: int) -> Item:
        codes = torch.from_numpy(self.codes[index].astype(np.int64))
        return codes, self.labels[index]


def encode_images(
    images: LabelledImages,
    encode: Encode,
    codebook_size: int,
    folder: Path,
    accelerator: Accelerator,
    batch_size: int = 100,
) -> EncodedImages:
    """Encode all of `images` into `folder`, unless that was done before; processes share the work.

    Args:
        encode: images `(B, C, H, W)` -> codes `(B, h, w)`.
    """
    # Folders of older versions hold labels, which may be wrong, and no places.
    if not ((folder / "meta.json").is_file() and (folder / PLACES).is_file()):
        _write(images, encode, codebook_size, folder, accelerator, batch_size)
    return EncodedImages(folder, images.labels)


class _Places(Dataset[tuple[Tensor, int]]):
    """The images, each with the place of its label: that of another file where its own does not decode."""

    def __init__(self, images: LabelledImages) -> None:
        self.images = images

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images.read(index)


def _write(
    images: LabelledImages,
    encode: Encode,
    codebook_size: int,
    folder: Path,
    accelerator: Accelerator,
    batch_size: int,
) -> None:
    count = len(images)
    part = temporary_path(folder)
    first = encode(images.read(0)[0][None].to(accelerator.device))
    if accelerator.is_main_process:
        empty_temporary_directory(folder)
        dtype = np.uint16 if codebook_size <= 1 << 16 else np.uint32
        np.lib.format.open_memmap(part / "codes.npy", mode="w+", dtype=dtype, shape=(count, *first.shape[1:])).flush()
        np.lib.format.open_memmap(part / PLACES, mode="w+", dtype=np.int64, shape=(count,)).flush()
    accelerator.wait_for_everyone()

    codes = np.lib.format.open_memmap(part / "codes.npy", mode="r+")
    places = np.lib.format.open_memmap(part / PLACES, mode="r+")
    bounds = np.linspace(0, count, accelerator.num_processes + 1).astype(int)
    start, stop = bounds[accelerator.process_index], bounds[accelerator.process_index + 1]
    loader: Iterable[Item] = cast(
        "Iterable[Item]", DataLoader(Subset(_Places(images), range(start, stop)), batch_size=batch_size)
    )
    for batch, place in tqdm(loader, desc="encode", disable=not accelerator.is_main_process):
        codes[start : start + len(batch)] = encode(batch.to(accelerator.device)).cpu().numpy()
        places[start : start + len(batch)] = place.numpy()
        start += len(batch)
    codes.flush()
    places.flush()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (part / "meta.json").write_text(json.dumps({"count": count, "codebook_size": codebook_size}))
        install_directory(folder)
    accelerator.wait_for_everyone()
