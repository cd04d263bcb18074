"""The report: one JSON file, and image grids next to it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from common.errors import UserError
from common.files import write_text
from images.io import check_writable, save_png

Part = dict[str, object]  # a labelled part of the report
REPORT_KEYS = frozenset({"reconstruction", "samples"})  # every report has one of them


def image_path(report: Path, name: str) -> Path:
    """The path of an image next to the report: FOLDER/<stem of the report>-<name>.png."""
    return report.with_name(f"{report.stem}-{name}.png")


def check_report(report: Path) -> None:
    """Raise UserError where the report cannot be written, or would replace a file that is not one. To call first."""
    if report.is_dir():
        raise UserError(f"cannot write {report}: it is a folder; name a file")
    check_writable(report, ".json")
    if not report.exists():
        return
    try:
        found: object = json.loads(report.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not (isinstance(found, dict) and REPORT_KEYS & found.keys()):
        raise UserError(f"{report} exists and is not a report of evaluate.py: give another name for --out")


def check_images(report: Path, names: Sequence[str], reference: Path | None) -> None:
    """Raise UserError where the report's images cannot be written, or would be among the reference images.

    Args:
        reference: the folder of the reference images.
    """
    for name in names:
        check_writable(image_path(report, name))
    if reference is not None and report.parent.resolve().is_relative_to(reference.resolve()):
        raise UserError(
            f"{report} lies in {reference}: the report's images would be among the reference images; "
            "give --out in another folder"
        )


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
