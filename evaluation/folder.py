"""Score a folder of images, such as samples that another program made, against reference images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from common.errors import UserError, print_note
from common.features import EfficientNetFeatures
from evaluation.frechet import distance_with_bar, frechet_part
from evaluation.reference import EMBEDDED_SIZE, ReferenceImages
from evaluation.report import check_report, write_report
from evaluation.source import EMBEDDED, ImageSource, find_source
from images.convert import from_8_bits
from images.io import read_size

MAX_SIZE = 4096  # pixels a side


def evaluate_folder(folder: str, reference: str, out: Path, size: int | None = None) -> None:
    """Write the Frechet distance between two sets of images, all of them read at one size.

    Args:
        folder, reference: see `evaluation.source.find_source`.
        out: the report.
        size: pixels a side; None: the size of the images of `folder`, see `choose_size`.

    Raises:
        UserError: images cannot be read, those of `folder` have several sizes, `out` cannot be written.
    """
    sources = find_source(folder), find_source(reference)
    check_report(out)
    size = choose_size(*sources, size)
    sets = [ReferenceImages(source, size, 3) for source in sources]
    for role, images in zip(("images", "reference"), sets, strict=True):
        images.describe(role)
    extractor = EfficientNetFeatures().eval()
    features, reference_features = (extract(extractor, images) for images in sets)
    distance = distance_with_bar(features, reference_features, extractor.name)
    part = frechet_part(distance, extractor.name, len(features), reference, len(reference_features))
    data = {"images": sets[0].part(), "reference": sets[1].part()}
    write_report(out, {"images": folder, "samples": part | {"size": size}, "data": data})


@torch.no_grad()
def extract(extractor: EfficientNetFeatures, images: ReferenceImages) -> Tensor:
    """Features `(N, D)` of all images."""
    return torch.cat([extractor(from_8_bits(batch.pixels)) for batch in images])


def choose_size(images: ImageSource, reference: ImageSource, size: int | None) -> int:
    """The side in pixels at which both sets are read, and a note where it is not that of all `images`.

    A distance depends on the size, so nothing accidental decides it: `size` does, or the one size that all `images` have.
    The embedded digits have a fixed size.

    Raises:
        UserError: `size` is out of range or not that of the digits, or the images have several sizes.
    """
    if size is not None and not 1 <= size <= MAX_SIZE:
        raise UserError(f"--size must lie in [1, {MAX_SIZE}], got {size}")
    data = [source.data for source in (images, reference) if source.data is not None]
    if any(found.source == EMBEDDED for found in data):
        if size not in (None, EMBEDDED_SIZE):
            raise UserError(f"{EMBEDDED} is {EMBEDDED_SIZE} pixels wide: leave out --size {size}")
        size = EMBEDDED_SIZE
    sides = Counter([images.data.image_size]) if images.data is not None else shorter_sides(images)
    common = sides.most_common()
    if size is None:
        if len(sides) > 1:
            named = ", ".join(f"{side} pixels ({count})" for side, count in common[:3])
            more = f" and {len(sides) - 3} more" if len(sides) > 3 else ""
            raise UserError(
                f"{images.about} have several sizes (shorter sides, with their number of images: {named}{more}), "
                f"and the distance depends on it: give one, such as --size {common[0][0]}"
            )
        return common[0][0]
    if set(sides) != {size}:
        smaller = sum(count for side, count in sides.items() if side < size)
        print_note(
            f"{sum(sides.values()) - sides[size]} images are scaled to {size} pixels, {smaller} of them enlarged"
        )
    return size


def shorter_sides(images: ImageSource) -> Counter[int]:
    """How many images of a folder have a shorter side of how many pixels, by their headers. Raises UserError without any."""
    sides: Counter[int] = Counter()
    for file in tqdm(images.files, desc="read sizes", unit="image"):
        try:
            sides[min(read_size(file))] += 1
        except UserError:
            continue  # reading the image names it as skipped
    if not sides:
        raise UserError(f"none of the {len(images.files)} images in {images.root} decodes: check the files")
    return sides
