"""The encoded data set on disk: written once, memory-mapped afterwards.

A folder `<output_dir>/codes/<key>/` holds codes.npy `(N, h, w)` uint16 or uint32, labels.npy `(N,)` int64 and meta.json.
The key is a hash of the tokenizer's weights and of the data, so codes of another tokenizer are never met.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from common.errors import UserError


def codes_key(tokenizer_weights: Path, data_fingerprint: str) -> str:
    """16 hexadecimal digits that change with the tokenizer's weights file or with the data."""
    digest = hashlib.sha256(data_fingerprint.encode())
    with tokenizer_weights.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def split_codes(codes: Tensor, groups: int, vocab_size: int) -> Tensor:
    """Codes `(...)` in [0, V^G) as G digits `(..., G)` in base V, the lowest first; unchanged for G = 1."""
    if groups == 1:
        return codes
    place = vocab_size ** torch.arange(groups, device=codes.device)
    return codes[..., None] // place % vocab_size


def merge_codes(digits: Tensor, groups: int, vocab_size: int) -> Tensor:
    """The inverse of `split_codes`."""
    if groups == 1:
        return digits
    return (digits * vocab_size ** torch.arange(groups, device=digits.device)).sum(-1)


def digit_base(codebook_size: int, groups: int) -> int:
    """V with V^G = `codebook_size`. Raises UserError where there is none."""
    base = round(codebook_size ** (1 / groups))
    if base < 2 or base**groups != codebook_size:
        raise UserError(
            f"{codebook_size} codes cannot be split into {groups} equal parts: set prior.groups=1, or to a number G for "
            "which the codebook size is a G-th power"
        )
    return base


class EncodedImages(Dataset):
    """Codes `(h, w)` int64 and their label, read from a folder that `encode_images` wrote."""

    def __init__(self, folder: Path) -> None:
        self.codes = np.load(folder / "codes.npy", mmap_mode="r")
        self.labels = np.load(folder / "labels.npy")

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        codes = torch.from_numpy(self.codes[index].astype(np.int64))
        return codes, torch.tensor(self.labels[index])


def encode_images(
    images: Dataset,
    encode: Callable[[Tensor], Tensor],
    codebook_size: int,
    folder: Path,
    accelerator: Accelerator,
    batch_size: int = 100,
) -> EncodedImages:
    """Encode all of `images` into `folder`, unless that was done before; processes share the work.

    Args:
        images: items (image `(C, H, W)`, label).
        encode: images `(B, C, H, W)` -> codes `(B, h, w)`.
    """
    if not (folder / "meta.json").is_file():
        _write(images, encode, codebook_size, folder, accelerator, batch_size)
    return EncodedImages(folder)


def _write(
    images: Dataset,
    encode: Callable[[Tensor], Tensor],
    codebook_size: int,
    folder: Path,
    accelerator: Accelerator,
    batch_size: int,
) -> None:
    count = len(images)  # type: ignore[arg-type]
    beside = folder.with_name(f".{folder.name}.partial")
    first = encode(images[0][0][None].to(accelerator.device))
    if accelerator.is_main_process:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        dtype = np.uint16 if codebook_size <= 1 << 16 else np.uint32
        np.lib.format.open_memmap(beside / "codes.npy", mode="w+", dtype=dtype, shape=(count, *first.shape[1:])).flush()
        np.lib.format.open_memmap(beside / "labels.npy", mode="w+", dtype=np.int64, shape=(count,)).flush()
    accelerator.wait_for_everyone()

    codes = np.lib.format.open_memmap(beside / "codes.npy", mode="r+")
    labels = np.lib.format.open_memmap(beside / "labels.npy", mode="r+")
    bounds = np.linspace(0, count, accelerator.num_processes + 1).astype(int)
    start, stop = bounds[accelerator.process_index], bounds[accelerator.process_index + 1]
    loader: Iterable = DataLoader(Subset(images, range(start, stop)), batch_size=batch_size)
    for batch, label in tqdm(loader, desc="encode", disable=not accelerator.is_main_process):
        codes[start : start + len(batch)] = encode(batch.to(accelerator.device)).cpu().numpy()
        labels[start : start + len(batch)] = label.numpy()
        start += len(batch)
    codes.flush()
    labels.flush()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (beside / "meta.json").write_text(json.dumps({"count": count, "codebook_size": codebook_size}))
        beside.rename(folder)
    accelerator.wait_for_everyone()
