"""The programs that hostile inputs are given to, each a function of its arguments that `common.errors.run_cli` runs."""

from __future__ import annotations

import io
import json
import resource
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import evaluate
import sample
import train
from benchmarks.hostile_case import Outcome
from common import export
from common.config import load_config
from common.errors import UserError, run_cli
from diffusion.pipeline import ImageGenerator
from images.dataset import DataConfig, ImageData
from images.folder import class_name
from images.sources import load_images
from training.run import RunConfig

LEVEL_TOLERANCE = 4  # of a grey level after JPEG's rounding


def open_upload(arguments: Sequence[str]) -> None:
    """Do what the page does with an uploaded image: check, decode, show."""
    from app.uploads import DEFAULT_LIMITS, open_image  # noqa: PLC0415 - gradio is an extra

    open_image(arguments[0], None, DEFAULT_LIMITS)


def generate(arguments: Sequence[str]) -> None:
    """Read a model and generate an image in Python."""
    ImageGenerator.from_pretrained(arguments[0], "cpu").generate(n=1, num_inference_steps=2)


def read_configuration(arguments: Sequence[str]) -> None:
    """Read a YAML file with overrides; a text key must hold the text of its override."""
    config = load_config(RunConfig, arguments[0], arguments[1:])
    for key, found in (("output_dir", config.output_dir), ("data.path", config.data.path)):
        given = [text.removeprefix(f"{key}=") for text in arguments[1:] if text.startswith(f"{key}=")]
        if given and found != given[-1]:
            raise AssertionError(f"{key} is {found!r}, and {given[-1]!r} was given")


def read_labels(arguments: Sequence[str]) -> None:
    """Read a folder of images of one grey level a class; labels must name the folder that an image lies in.

    Args:
        arguments: the folder, and a JSON file: grey level -> name of the class; "" for none, null for a hidden folder.
    """
    root, truth = arguments
    names = {int(level): name for level, name in json.loads(Path(truth).read_text(encoding="utf-8")).items()}
    config = DataConfig(source="folder", path=root, image_size=8, channels=1, in_memory=True)
    train_images = load_images(config, "train")
    for split, images in (("train", train_images), ("val", _other_split(config))):
        if not isinstance(images, ImageData):
            continue
        if images.class_names != train_images.class_names:
            raise AssertionError(f"{split} has the classes {images.class_names}, not {train_images.class_names}")
        for pixels, label in zip(images.pixels.float().mean((1, 2, 3)).tolist(), images.labels.tolist(), strict=True):
            level = min(names, key=lambda known: abs(known - pixels))
            if abs(level - pixels) > LEVEL_TOLERANCE:
                raise AssertionError(f"an image of level {pixels} is none of the folder's: {sorted(names)}")
            if names[level] is None:
                raise AssertionError(f"{split} holds an image of a hidden file or folder, of level {level}")
            if label >= 0 and images.class_names[label] != class_name(names[level]):
                raise AssertionError(f"{split}: '{names[level]}' is labelled '{images.class_names[label]}'")


def _other_split(config: DataConfig) -> object:
    try:
        return load_images(config, "val")
    except UserError:  # too few images
        return None


PROGRAMS: dict[str, Callable[[Sequence[str]], None]] = {
    "sample.py": sample.main,
    "evaluate.py": evaluate.main,
    "train.py": train.main,
    "common.export": export.main,
    "page": open_upload,
    "generate": generate,
    "configuration": read_configuration,
    "labels": read_labels,
}


def run_program(program: str, arguments: Sequence[str]) -> Outcome:
    """Run a program in this process, without output."""
    start, out, err = time.monotonic(), io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = run_cli(PROGRAMS[program], arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:
            traceback.print_exc(file=sys.stderr)
            code = 1
    seconds, peak = time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Outcome(code, seconds, peak, err.getvalue())
