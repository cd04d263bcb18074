"""The report: one JSON file, and image grids next to it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from common.errors import UserError
from common.files import write_text
from images.io import check_writable, save_png

Part = dict[str, object]  # a labelled part of the report


def frechet_part(distance: float, extractor: str, images: int, reference: str, reference_images: int) -> Part:
    """A Frechet distance with everything that its value depends on.

    Args:
        extractor: name of the feature network.
        images, reference_images: numbers of images.
        reference: name or folder of the reference images.
    """
    return {
        "frechet_distance": distance,
        "extractor": extractor,
        "note": "not FID: another feature network",
        "images": images,
        "reference": reference,
        "reference_images": reference_images,
    }


def image_path(report: Path, name: str) -> Path:
    """The path of an image next to the report: FOLDER/<stem of the report>-<name>.png."""
    return report.with_name(f"{report.stem}-{name}.png")


def check_paths(report: Path, images: tuple[str, ...] = ()) -> None:
    """Raise UserError where the report or one of its `images` cannot be written. To call before the work starts."""
    if report.is_dir():
        raise UserError(f"cannot write {report}: it is a folder; name a file")
    for name in images:
        check_writable(image_path(report, name))


def write_report(path: Path, report: Mapping[str, object], images: Mapping[str, Image.Image] | None = None) -> None:
    """Write the images, then the report: a report that exists is complete. Raises UserError where a file cannot be written."""
    for name, image in (images or {}).items():
        save_png(image, image_path(path, name))
    write_text(path, json.dumps(json_safe(report), indent=2, allow_nan=False) + "\n")


def json_safe(value: object) -> object:
    """`value` with None for every infinite number and NaN: JSON has neither."""
    if isinstance(value, Mapping):
        return {key: json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
