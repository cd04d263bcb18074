"""GenerationService: one worker thread generates images for everybody on the page, and streams previews meanwhile."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from app.choices import LABEL_WORDS, Request, whole_number
from app.jobs import Job
from app.status import note
from app.storage import Storage
from app.uploads import Limits
from images.io import save_gif, save_png

if TYPE_CHECKING:
    from torch import Tensor

    from diffusion.pipeline import ImageGenerator

PREVIEW_FRACTION = 0.2  # most of the sampling time that previews may take


class Update(NamedTuple):
    """What changes on the page. None leaves a part as it is; [] empties it.

    Attributes:
        status: a line of HTML.
        previews: of the results.
        images: paths of the results.
        seed: the one that is used.
    """

    status: str
    previews: list[Image.Image] | None = None
    images: list[str] | None = None
    seed: int | None = None


class StoppedError(Exception):
    """Nobody waits for the images any longer."""


class GenerationService:
    """Generates for several people, one job at a time.

    Args:
        generator: the model.
        limits: what a job may ask for.
        storage: results are written there.
    """

    def __init__(self, generator: ImageGenerator, limits: Limits, storage: Storage) -> None:
        self.generator, self.limits, self.storage = generator, limits, storage
        self.worker, self.closing = ThreadPoolExecutor(1, "generation"), threading.Event()
        self.examples: list[Future[Image.Image]] = []
        self.example_paths: dict[int, Path] = {}
        self.example_lock = threading.Lock()

    def close(self) -> None:
        """Stop the running job after its current step, and drop the waiting ones."""
        self.closing.set()
        self.worker.shutdown(cancel_futures=True)

    def run(self, job: Job) -> Iterator[Update]:
        """Run a job; yields its seed, then previews, then the paths of the results. Raises what its generator raises."""
        began = time.perf_counter()
        seed = job.request.seed
        yield Update(note("Sampling…"), [], [], seed)
        results = yield from self._generated(job)
        several = len(results) > 1
        paths = [
            self.save(result, f"{job.name}-{seed}{f'-{number}' if several else ''}", job.request)
            for number, result in enumerate(results, 1)
        ]
        if job.animated:
            path = self.storage.new_path(f"{job.name}-{seed}.gif")
            save_gif(results, path, milliseconds=200, last=1000)
            paths.insert(0, str(path))
        self.storage.sweep()
        yield Update(note(f"{job.summary} in {time.perf_counter() - began:.1f} s, seed {seed}"), [], paths)

    def example(self, index: int) -> str:
        """The path of an image sampled from the model, to try the page with. The first call for it samples it.

        Args:
            index: from 0 to `limits.examples` - 1, in order: each is a job of its own, and others come between them.

        Raises:
            UserError: another index, or one whose turn has not come.
        """
        names, count = self.generator.class_names, self.limits.examples
        whole_number("example", index, 0, min(len(self.examples), count - 1))
        label = index * len(names) // count if names else None  # spread over the classes

        def on_step_end(*_: object) -> None:
            if self.closing.is_set():
                raise StoppedError

        def generate() -> Image.Image:
            settings = self.generator.settings(
                num_inference_steps=min(self.limits.steps, self.generator.defaults.num_inference_steps)
            )
            return self.generator.generate(
                1, label, seed=0, first=index, settings=settings, callback_on_step_end=on_step_end
            )[0]

        with self.example_lock:
            if index == len(self.examples):
                self.examples.append(self.worker.submit(generate))
            future = self.examples[index]
        image = future.result()
        with self.example_lock:
            path = self.example_paths.get(index)
            if path is None or not path.exists():  # the storage may have deleted it
                path = self.storage.new_path(f"example-{index + 1}.png")
                save_png(image, path)
                self.example_paths[index] = path
        return str(path)

    def save(self, image: Image.Image, name: str, request: Request) -> str:
        """Write a PNG with its settings as metadata; returns its path."""
        names = LABEL_WORDS | dict(enumerate(self.generator.class_names))
        label = names[request.label] if self.generator.class_names else ""
        path = self.storage.new_path(f"{name}.png")
        save_png(image, path, {"seed": str(request.seed), "label": label, **request.settings.metadata()})
        return str(path)

    def _generated(self, job: Job) -> Generator[Update, None, list[Image.Image]]:
        """Run a job in the worker; yields previews and returns the images. Closing this generator stops the worker."""
        messages: queue.SimpleQueue[Update | Future[list[Image.Image]]] = queue.SimpleQueue()
        stop = threading.Event()
        next_preview, runs = 0.0, 0

        def on_step_end(generator: ImageGenerator, step: int, time_left: float, state: dict[str, Tensor]) -> None:
            nonlocal next_preview, runs
            if stop.is_set() or self.closing.is_set():
                raise StoppedError
            runs += step == 0
            begin = time.perf_counter()
            if begin >= next_preview:
                text = f"step {step + 1} of {job.steps}" if job.steps else f"image {runs}, step {step + 1}"
                messages.put(Update(note(f"Sampling: {text}"), job.preview(state["codes"])))
                end = time.perf_counter()
                next_preview = end + (end - begin) * (1 / PREVIEW_FRACTION - 1)

        future = self.worker.submit(job.generate, on_step_end)
        future.add_done_callback(messages.put)
        try:
            while isinstance(message := messages.get(), Update):
                yield message
            return message.result()
        finally:
            stop.set()
            future.cancel()
