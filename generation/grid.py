"""`sample.py grid`: an image grid, and a folder of single images that can be resumed and shared by processes."""

from __future__ import annotations

import json
import math
import os
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor

from common.errors import UserError, print_note, printable
from common.files import write_text
from common.model_dir import CONFIG_FILE, PARTS, WEIGHTS_FILE, model_directory
from diffusion.call_bar import CallBar
from diffusion.dataset import codes_key
from diffusion.pipeline import ImageGenerator
from diffusion.request import MAX_CODES, SampledCodes
from diffusion.settings import given_settings
from generation.labels import labels_text, print_label_notes
from generation.output import check_overwrites, image_metadata, numbered, print_settings
from images.grid import image_grid
from images.io import check_writable, read_image, save_gif, save_png

GRID_IMAGES = 1024  # a grid shows at most so many
FRAMES = 64  # of a trajectory at most


def grid(args: Namespace) -> None:
    """Generate `--n` images into one grid, and with `--images-dir` each alone as well.

    The folder is resumable: batches whose images all exist are left out. Several processes (`accelerate launch`,
    `torchrun`) share the batches, and every image is the same whatever their number.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    check_arguments(args, world)
    given = given_settings(args)
    with process_group(world) as (device, wait):
        generator = ImageGenerator.from_pretrained(args.model, device, args.dtype)
        settings = generator.settings(**given)
        size, conditioning = generator.image_size(*args.size)
        labels = generator.classes.numbers(args.label)
        about = image_metadata(args, settings, labels_text(generator, labels))
        if args.images_dir:
            record_settings(args.images_dir, args.model, about, write=rank == 0)
        wait()
        if rank == 0:
            print_label_notes(args, generator, labels, settings)
            print_settings(settings)
        trajectory = Trajectory()
        shown: list[Image.Image] = []
        batches = -(-args.n // args.batch_size)
        own = max(0, -(-(batches - rank) // world))  # of this process
        with CallBar(args.command, own, hidden=rank > 0) as bar:
            for first in range(rank * args.batch_size, args.n, world * args.batch_size):
                count = min(args.batch_size, args.n - first)
                watched = args.trajectory is not None and first == 0
                files = [numbered(args.images_dir, first + i) for i in range(count)] if args.images_dir else []
                if files and not watched and all(is_complete(file) for file in files):
                    bar.skip_request()
                    continue
                request = generator.request(count, labels, "pil", {
                    "seed": args.seed, "first": first, "settings": settings, "progress": bar.next_request(),
                    "callback_on_step_end": trajectory.keep if watched else None,
                })  # fmt: skip
                done = 0
                for sampled in generator.sample_batches(request, conditioning, args.batch_size):
                    images = generator.decode(sampled.codes, size)
                    if files:
                        save_images(generator, images, sampled, files[done:], first + done, about)
                    else:
                        shown += images
                    done += len(images)
        wait()
        if rank == 0:
            write_grid(args, generator, len(args.label or []), shown, trajectory, about)


def check_arguments(args: Namespace, world: int) -> None:
    """Raise UserError, before anything is computed, for arguments that do not fit each other or cannot be written."""
    if args.n < 1 or args.batch_size < 1:
        raise UserError(f"--n and --batch-size must be at least 1, got {args.n} and {args.batch_size}")
    if args.batch_size > MAX_CODES:
        raise UserError(f"--batch-size must be at most {MAX_CODES}, got {args.batch_size}")
    if args.out is None and args.images_dir is None:
        raise UserError("nowhere to write to: give --out grid.png, or --images-dir FOLDER, or both")
    if args.images_dir is None and (world > 1 or args.n > GRID_IMAGES):
        raise UserError(
            f"more than {GRID_IMAGES} images, or several processes, need a folder: give --images-dir FOLDER"
        )
    check_overwrites(args)
    if args.out:
        check_writable(args.out)
    if args.trajectory:
        check_writable(args.trajectory, ".gif")
    if args.images_dir:
        check_writable(numbered(args.images_dir, 0))


def save_images(
    generator: ImageGenerator,
    images: list[Image.Image],
    sampled: SampledCodes,
    files: list[Path],
    first: int,
    about: Mapping[str, str],
) -> None:
    """Write each image to its file, with its own index and label in the metadata."""
    for i, (image, label) in enumerate(zip(images, sampled.labels.tolist(), strict=True)):
        save_png(image, files[i], {**about, "index": str(first + i), "label": generator.class_name(label)})


def write_grid(
    args: Namespace,
    generator: ImageGenerator,
    labels: int,
    shown: list[Image.Image],
    trajectory: Trajectory,
    about: Mapping[str, str],
) -> None:
    """Write the trajectory and the grid, one column a label where there are several, and print the paths."""
    columns = labels if labels > 1 else math.ceil(math.sqrt(min(args.n, GRID_IMAGES)))
    if args.trajectory:
        save_gif(trajectory.frames(generator, columns), args.trajectory)
        print(printable(args.trajectory))
    if args.out:
        if args.images_dir:
            shown = [read_image(numbered(args.images_dir, i)) for i in range(min(args.n, GRID_IMAGES))]
            if args.n > len(shown):
                print_note(f"the grid shows the first {len(shown)} of {args.n} images")
        save_png(image_grid(shown, min(columns, len(shown))), args.out, dict(about))
        print(printable(args.out))
    if args.images_dir:
        print(printable(args.images_dir))


class Trajectory:
    """The codes of the first batch after each step; at most FRAMES of them, evenly spread."""

    def __init__(self) -> None:
        self.codes: list[Tensor] = []
        self.ended = False

    def keep(self, generator: ImageGenerator, step: int, time: float, state: dict[str, Tensor]) -> None:
        """For `callback_on_step_end`. A second batch begins with step 0 again, and is left out."""
        del generator, time
        self.ended |= step == 0 and bool(self.codes)
        if not self.ended:
            self.codes.append(state["codes"])

    def frames(self, generator: ImageGenerator, columns: int) -> list[Image.Image]:
        """An image grid for each frame, masked codes grey; on the absorbing graph the first one is all masked."""
        places = torch.linspace(0, len(self.codes) - 1, FRAMES).tolist()
        chosen = [self.codes[i] for i in sorted({round(place) for place in places})]
        if generator.prior.graph.is_masked:
            chosen.insert(0, torch.full_like(chosen[0], generator.tokenizer.codebook_size))
        return [image_grid(generator.preview(codes), min(columns, len(codes))) for codes in chosen]


@contextmanager
def process_group(world: int) -> Iterator[tuple[torch.device | None, Callable[[], None]]]:
    """The device of this process (None: the usual one), and a function that waits for all processes."""
    if world == 1:
        yield None, lambda: None
        return
    # Processes that finish early wait for the others, however long that takes.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7))
    try:
        yield state.device, state.wait_for_everyone
    finally:
        state.destroy_process_group()  # left to the interpreter's end, gloo's threads may abort the process


def is_complete(file: Path) -> bool:
    """Whether an image was written there; files are renamed into place when they are complete."""
    return file.is_file() and file.stat().st_size > 0


def record_settings(folder: Path, model: Path, about: Mapping[str, str], write: bool) -> None:
    """Record in `folder`/settings.json how its images are made. Raises UserError where images of other settings exist."""
    directory = model_directory(model)
    # The configuration too: the same weights with another one (tokenizer.conv_out_padding) make other images.
    keys = [
        codes_key(directory / part / WEIGHTS_FILE, (directory / part / CONFIG_FILE).read_text("utf-8"))
        for part in PARTS
    ]
    wanted = {**about, "model files": " ".join(keys)}
    file = folder / "settings.json"
    begun = any(image.stem.isdecimal() for image in folder.glob("*.png"))
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if begun and file.exists() else wanted
        differing = [name for name in wanted if name != "model" and found.get(name) != wanted[name]]
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file} is damaged: choose another --images-dir, or remove it with its images") from error
    if differing:
        name = differing[0]
        raise UserError(
            f"{folder} holds images of other settings ({name}: {found.get(name)} there, {wanted[name]} asked for): "
            "choose another --images-dir"
        )
    if begun and not file.exists():
        raise UserError(f"{folder} holds images without settings.json: choose another --images-dir")
    if write:
        write_text(file, json.dumps(wanted, indent=2) + "\n")
