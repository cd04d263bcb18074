"""GenerationService: one worker thread generates images for everybody on the page, and streams previews meanwhile."""

from __future__ import annotations

import math
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from app.status import note
from app.uploads import Limits, read_mask, read_upload
from common.errors import UserError
from images.grid import image_grid
from images.io import save_png

if TYPE_CHECKING:
    from torch import Tensor

    from diffusion.pipeline import ImageGenerator
    from diffusion.request import StepEnd
    from diffusion.settings import SamplingSettings

RANDOM, IN_TURN = -1, -2  # labels besides the class numbers
MAX_SEED = 2**32 - 1
MAX_COLUMNS = 16  # a grid has one column per class up to this number of classes
PREVIEW_FRACTION = 0.2  # most of the sampling time that previews may take


@dataclass(frozen=True)
class Request:
    """The checked values that both tabs have.

    Attributes:
        label: a class number, RANDOM or IN_TURN.
    """

    label: int
    seed: int
    settings: SamplingSettings


class Update(NamedTuple):
    """What changes on the page. None leaves a part as it is; "" and [] empty it.

    Attributes:
        status: a line of HTML.
        codes: a preview of the codes so far.
        images: paths of the results.
    """

    status: str
    codes: Image.Image | str | None = None
    images: list[str] | None = None


class StoppedError(Exception):
    """Nobody waits for the images any longer."""


class GenerationService:
    """Generates for several people, one request at a time.

    Args:
        generator: the model.
        limits: what a request may ask for.
        folder: results are written below it.
    """

    def __init__(self, generator: ImageGenerator, limits: Limits, folder: Path) -> None:
        self.generator, self.limits, self.folder = generator, limits, folder
        self.worker, self.closing = ThreadPoolExecutor(1, "generation"), threading.Event()

    def close(self) -> None:
        """Stop the running request after its current step, and drop the waiting ones."""
        self.closing.set()
        self.worker.shutdown(cancel_futures=True)

    def repaint(
        self,
        image_path: str | None,
        mask_path: str | None,
        canvas: object,
        variants: object,
        fit: object,
        label: object,
        seed: object,
        options: Mapping[str, object],
    ) -> Iterator[Update]:
        """Generate variants of an uploaded image in its painted part; yields previews, then the results.

        Args:
            canvas: see `app.uploads.read_canvas`.
            fit: see `ImageGenerator.inpaint`.
            label, seed, options: see `checked`.

        Raises:
            UserError: no image, nothing painted, a value out of range, or as `ImageGenerator.inpaint`.
        """
        began = time.perf_counter()
        request = self.checked(label, seed, options)
        count = whole_number("variants", variants, 1, self.limits.variants)
        if image_path is None:
            raise UserError("there is no image yet: choose one first")
        image = read_upload(image_path, self.limits)
        most = max(1, self.limits.all_pixels // (image.width * image.height))
        if count > most:
            raise UserError(
                f"an image of this size gets at most {most} variants at once: ask for fewer, or make it smaller"
            )
        mask = read_mask(canvas, mask_path, image.size, self.limits)

        def inpaint(on_step_end: StepEnd) -> list[Image.Image]:
            return self.generator.inpaint(
                image, mask, count, self.class_labels(request.label),
                fit=bool(fit), seed=request.seed, settings=request.settings, callback_on_step_end=on_step_end,
            )  # fmt: skip

        results = yield from self._run(inpaint, request, count)
        paths = [self.save(result, f"repaint-{request.seed}-{i}", request) for i, result in enumerate(results, 1)]
        yield Update(_summary(count, "variant", began), None, paths)

    def grid(self, number: object, label: object, seed: object, options: Mapping[str, object]) -> Iterator[Update]:
        """Generate `number` images into one image grid; yields and raises as `repaint`."""
        began = time.perf_counter()
        request = self.checked(label, seed, options)
        count = whole_number("images", number, 1, self.limits.grid)

        def generate(on_step_end: StepEnd) -> list[Image.Image]:
            return self.generator.generate(
                count, self.class_labels(request.label),
                seed=request.seed, settings=request.settings, callback_on_step_end=on_step_end,
            )  # fmt: skip

        results = yield from self._run(generate, request, count)
        path = self.save(image_grid(results, self.columns(count, request.label)), f"grid-{request.seed}", request)
        yield Update(_summary(count, "image", began), None, [path])

    def checked(self, label: object, seed: object, options: Mapping[str, object]) -> Request:
        """The values of a request. Raises UserError where one is missing, has another type or is out of range.

        Args:
            label: a class number, RANDOM or IN_TURN.
            seed: a whole number from 0 to MAX_SEED.
            options: sampling options by the names of the settings' fields; the others have the model's generation defaults.
        """
        settings = self.generator.settings(**options)
        whole_number("steps", settings.num_inference_steps, 1, self.limits.steps)
        return Request(
            whole_number("label", label, IN_TURN, len(self.generator.class_names) - 1),
            whole_number("seed", seed, 0, MAX_SEED),
            settings,
        )

    def class_labels(self, label: int) -> int | list[int] | None:
        """A label as the generator takes it."""
        if not self.generator.class_names or label == RANDOM:
            return None
        return list(range(len(self.generator.class_names))) if label == IN_TURN else label

    def columns(self, count: int, label: int) -> int:
        """The number of columns of an image grid: one per class for IN_TURN, else about the number of rows."""
        classes = len(self.generator.class_names)
        one_per_class = label == IN_TURN and 1 < classes <= MAX_COLUMNS
        return min(count, classes if one_per_class else math.ceil(math.sqrt(count)))

    def save(self, image: Image.Image, name: str, request: Request) -> str:
        """Write a PNG with its settings as metadata into a new folder; returns its path."""
        names = {RANDOM: "random", IN_TURN: "in turn"} | dict(enumerate(self.generator.class_names))
        label = names[request.label] if self.generator.class_names else ""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(dir=self.folder)) / f"{name}.png"
        save_png(image, path, {"seed": str(request.seed), "label": label, **request.settings.metadata()})
        return str(path)

    def _run(
        self, generate: Callable[[StepEnd], list[Image.Image]], request: Request, count: int
    ) -> Generator[Update, None, list[Image.Image]]:
        """Run `generate` in the worker; yields previews and returns the images. Closing this generator stops the worker."""
        messages: queue.SimpleQueue[Update | Future[list[Image.Image]]] = queue.SimpleQueue()
        stop = threading.Event()
        columns = count if count <= 4 else self.columns(count, request.label)
        steps = request.settings.num_inference_steps
        latest: list[Tensor] = []  # the codes after the last step
        next_preview = 0.0

        def preview(text: str) -> None:
            messages.put(Update(note(text), image_grid(self.generator.preview(latest[-1]), columns)))

        def on_step_end(generator: ImageGenerator, step: int, time_left: float, state: dict[str, Tensor]) -> None:
            nonlocal next_preview
            if stop.is_set() or self.closing.is_set():
                raise StoppedError
            latest[:] = [state["codes"]]
            begin = time.perf_counter()
            if begin >= next_preview:
                preview(f"Sampling: step {step + 1} of {steps}")
                end = time.perf_counter()
                next_preview = end + (end - begin) * (1 / PREVIEW_FRACTION - 1)

        def work() -> list[Image.Image]:
            images = generate(on_step_end)
            if latest:
                preview("Sampling: nearly done")
            return images

        yield Update(note("Sampling…"), "", [])
        future = self.worker.submit(work)
        future.add_done_callback(messages.put)
        try:
            while isinstance(message := messages.get(), Update):
                yield message
            return message.result()
        finally:
            stop.set()
            future.cancel()


def whole_number(name: str, value: object, low: int, high: int) -> int:
    """`value` as an integer. Raises UserError where it is not a whole number in [low, high]."""
    with suppress(ValueError, OverflowError):  # nan, infinity
        if isinstance(value, (int, float)) and low <= value <= high and int(value) == value:
            return int(value)
    raise UserError(f"{name} must be a whole number from {low} to {high}, got {value}")


def _summary(count: int, thing: str, began: float) -> str:
    return note(f"{count} {thing}{'s' if count > 1 else ''} in {time.perf_counter() - began:.1f} s")
