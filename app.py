"""The page in the browser: paint over a part of a picture and see it drawn anew; draw grids.

A picture's way: browser -> `upload` (a path, nothing is opened yet) -> `read_upload` (limits, then
`images.io.read_image`) -> `Studio.repaint` -> the generator, in the studio's only worker thread -> a PNG.
"""

from __future__ import annotations

import base64
import html
import io
import json
import logging
import math
import os
import queue
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterator, MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image, UnidentifiedImageError

from common.errors import UserError
from diffusion.graph import Absorbing
from diffusion.sampler import NEEDS_MASK, SAMPLERS
from images.grid import image_grid
from images.io import FORMATS, read_image, save_png
from images.mask import image_mask
from images.modes import to_model_mode

try:
    import gradio as gr
    from starlette.middleware import Middleware
except ModuleNotFoundError as error:
    if error.name != "gradio":
        raise
    raise UserError("the page needs gradio: pip install 'smalti[app]'") from error

if TYPE_CHECKING:
    from torch import Tensor

    from diffusion.pipeline import ImageGenerator

log = logging.getLogger("smalti.app")

CANVAS = 1024  # pixels: the longer side of what is painted on at most; smaller pictures are painted on pixel by pixel
MASK_COLOUR = (230, 0, 126, 150)  # one sees what one paints over
PAINTED = 32  # alpha of 255 from which a pixel of the canvas counts as painted
PNG_URL = "data:image/png;base64,"
PREVIEW_SHARE = 0.2  # of the time goes to pictures of half-finished codes at most
FAILED = "Something went wrong here. The server's log says what; other requests are not affected."
WAITING = "Waiting for its turn…"
REFUSED = "The server did not take this: too many are waiting, or a setting is out of range. Try again."
RANDOM, IN_TURN = -1, -2  # choices of the label beside the classes


@dataclass(frozen=True)
class Limits:
    """What the page accepts.

    Attributes:
        upload_mb: size of a request in MB, so of a file too.
        pixels, all_pixels: of a picture, its mask's too, and of all its variants together. With them memory stays under 2 GB.
        side: a picture's shorter side in pixels, at least.
        ratio: a picture's longer side over its shorter one, at most; beyond it nothing could be painted on.
        variants, grid, steps: at most.
        waiting: requests in the queue; further ones are turned away.
        keep_hours: uploads and results are deleted from the server after that time.
    """

    upload_mb: int = 20
    pixels: int = 12_000_000
    all_pixels: int = 24_000_000
    side: int = 8
    ratio: int = 16
    variants: int = 8
    grid: int = 64
    steps: int = 256
    waiting: int = 16
    keep_hours: int = 6


DEFAULT_LIMITS = Limits()


def read_upload(path: str | Path, limits: Limits) -> Image.Image:
    """The decoded picture of an uploaded file; its size is read, and judged, before it is decoded.

    Raises:
        UserError: no picture, damaged, of a format not in FORMATS, or outside the limits; it names the file without folders.
    """
    name = Path(path).name
    try:
        with Image.open(path, formats=FORMATS) as header:
            width, height = header.size
    except (UnidentifiedImageError, FileNotFoundError):
        raise UserError(
            f"{name} is not a picture that can be read: give a PNG, JPEG, WebP, GIF, BMP or TIFF file"
        ) from None
    except Image.DecompressionBombError:
        raise UserError(f"{name} has far too many pixels: make it smaller") from None
    except Exception as error:  # decoders of damaged headers raise almost anything
        raise UserError(f"{name} does not decode: save it again as PNG") from error
    if width * height > limits.pixels:
        raise UserError(
            f"{name} is {width} x {height} pixels, more than {limits.pixels / 1e6:g} million: make it smaller or cut a part out"
        )
    if min(width, height) < limits.side or max(width, height) > limits.ratio * min(width, height):
        raise UserError(
            f"{name} is {width} x {height} pixels: give one with sides of at least {limits.side}, "
            f"and not more than {limits.ratio} times as long as wide"
        )
    try:
        return read_image(path)
    except UserError as error:
        raise UserError(str(error).replace(str(path), name)) from error


def canvas_size(size: tuple[int, int]) -> tuple[int, int]:
    """The (width, height) at which a picture is painted on: its own, unless that is too large."""
    shrink = min(1.0, CANVAS / max(size))
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))


def mask_layer(mask: Image.Image) -> Image.Image:
    """A mask (128 and above is repainted) as paint on the canvas, RGBA."""
    white = to_model_mode(mask, 1, under="black").point(lambda value: 255 if value >= 128 else 0)
    white = white.resize(canvas_size(mask.size), Image.Resampling.NEAREST)
    return Image.composite(Image.new("RGBA", white.size, MASK_COLOUR), Image.new("RGBA", white.size), white)


def painted(layer: Image.Image) -> Image.Image:
    """Where paint lies on the canvas: "L", 255 or 0."""
    return layer.getchannel("A").point(lambda value: 255 if value >= PAINTED else 0)


def read_canvas(url: Any, size: tuple[int, int]) -> Image.Image | None:
    """`painted` of the canvas as the browser sent it, None where nothing is.

    Args:
        url: what came: "" or a PNG with transparency as a data URL.
        size: of the picture that was painted on.

    Raises:
        UserError: anything else came, or a canvas of another picture's size.
    """
    if not url:
        return None
    try:
        with Image.open(io.BytesIO(base64.b64decode(url[len(PNG_URL) :], validate=True)), formats=("PNG",)) as file:
            fits = file.size == canvas_size(size)
            layer = painted(file.convert("RGBA")) if fits else None
    except Exception as error:  # whatever a hostile client sends
        raise UserError("the painted mask did not arrive whole: paint again") from error
    if layer is None:
        raise UserError("the painted mask is another picture's: choose the picture again, then paint")
    return layer if layer.getbbox() else None


def mask_of(layer: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A mask of the picture's size, from `painted` on the canvas."""
    return layer.resize(size, Image.Resampling.NEAREST)


def data_url(image: Image.Image, form: str = "PNG") -> str:
    """An encoded picture that a page can show without asking for it."""
    buffer = io.BytesIO()
    image.save(buffer, form, quality=90)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def upload(label: str, name: str) -> gr.File:
    """A place to drop a picture; handlers get its path, and it is unopened. (A subclass would make gradio write files here.)"""
    place = gr.File(label=label, height=130, elem_id=name)

    def path_of(payload: Any) -> str | None:
        file = payload.root[0] if hasattr(payload, "root") else payload
        return None if file is None else file.path

    place.preprocess = path_of  # type: ignore[method-assign, assignment]
    return place


def refuse_addresses(block: gr.blocks.Block) -> None:
    """Keep gradio from fetching what a client names by an address instead of uploading it."""
    fetch = block.async_move_resource_to_block_cache

    async def only_files(path: str | Path | None) -> str | None:
        if path is not None and "://" in str(path):
            raise gr.Error("give a file, not an address", print_exception=False)
        return await fetch(path)

    block.async_move_resource_to_block_cache = only_files  # type: ignore[method-assign, assignment]


class Wanted(NamedTuple):
    """What the controls of a tab say."""

    label: int
    sampler: str
    steps: int
    guidance: float
    seed: int

    def metadata(self, names: Sequence[str]) -> dict[str, str]:
        """For the text fields of a PNG."""
        label = names[self.label] if self.label >= 0 else {RANDOM: "random", IN_TURN: "in turn"}[self.label]
        return {"seed": str(self.seed), "label": label if names else "", "num_inference_steps": str(self.steps),
                "sampler": self.sampler, "guidance_scale": f"{self.guidance:g}"}  # fmt: skip


class Stopped(Exception):
    """Nobody waits for the pictures any longer."""


class Update(NamedTuple):
    """What a handler changes on the page; None leaves it as it is, and "" or [] empties it."""

    status: str
    codes: Image.Image | str | None = None
    pictures: list[str] | None = None


class Studio:
    """A generator for several people: it draws for one at a time, and lets them watch.

    Args:
        model: what draws.
        folder: results are written there.
    """

    def __init__(self, model: ImageGenerator, limits: Limits, folder: Path) -> None:
        self.model, self.limits, self.folder = model, limits, folder
        self.worker, self.closing = ThreadPoolExecutor(1, "drawing"), threading.Event()

    def close(self) -> None:
        """Stop what is being drawn, after its step."""
        self.closing.set()
        self.worker.shutdown(cancel_futures=True)

    def open_picture(self, picture_path: str | None, mask_path: str | None = None) -> tuple[str, str, str]:
        """(what is painted on, paint that is there already, status) for an uploaded picture and maybe its mask.

        Raises:
            UserError: a file that `read_upload` refuses, a mask without a picture, of another size or without white.
        """
        if picture_path is None:
            if mask_path is not None:
                raise UserError("choose a picture first, then its mask")
            return "", "", ""
        picture = read_upload(picture_path, self.limits)
        shown = to_model_mode(picture, 3).resize(canvas_size(picture.size), Image.Resampling.LANCZOS)
        shown_url = data_url(shown, "PNG" if max(shown.size) <= 256 else "JPEG")
        size = f"{picture.width} x {picture.height} pixels"
        if mask_path is None:
            return shown_url, "", note(f"{size}. Paint over what should change.")
        mask = read_upload(mask_path, self.limits)
        image_mask(picture, mask)  # for what it refuses
        given_url = data_url(mask_layer(mask))
        return shown_url, given_url, note(f"{size}, with its mask. Paint more or rub some out if you like.")

    def repaint(
        self, picture_path: str | None, mask_path: str | None, canvas: Any, variants: Any, fit: Any, *controls: Any
    ) -> Iterator[Update]:
        """Draw the painted part anew; yields what to show meanwhile, and the variants at last.

        Args:
            canvas: see `read_canvas`.
            fit: see `ImageGenerator.inpaint`.
            controls: see `checked`.

        Raises:
            UserError: no picture, nothing painted, a setting out of range, and as `ImageGenerator.inpaint`.
        """
        began = time.perf_counter()
        wanted = self.checked(*controls)
        count = whole("variants", variants, 1, self.limits.variants)
        if picture_path is None:
            raise UserError("there is no picture yet: choose one first")
        picture = read_upload(picture_path, self.limits)
        most = max(1, self.limits.all_pixels // (picture.width * picture.height))
        if count > most:
            raise UserError(
                f"a picture as large as this gets at most {most} variants at once: ask for fewer, or shrink it"
            )
        layer = read_canvas(canvas, picture.size)
        if layer is None:
            raise UserError("nothing is painted yet: paint over what should change, or choose a mask file")
        mask = mask_of(layer, picture.size)
        if mask_path is not None and max(picture.size) > CANVAS:  # the canvas is coarser; an untouched mask need not be
            given = read_upload(mask_path, self.limits)
            if given.size == picture.size and painted(mask_layer(given)) == layer:
                mask = given

        def draw(callback: Callable[..., None]) -> list[Image.Image]:
            return self.model.inpaint(
                picture, mask, count, self.labels(wanted), wanted.steps, wanted.guidance,
                seed=wanted.seed, fit=bool(fit), sampler=wanted.sampler, callback_on_step_end=callback,
            )  # fmt: skip

        variants_drawn = yield from self.watch(draw, wanted, count)
        about = wanted.metadata(self.model.class_names)
        paths = [
            self.save(variant, f"repaint-{wanted.seed}-{i + 1}", about) for i, variant in enumerate(variants_drawn)
        ]
        yield Update(finished(count, "variant", began), None, paths)

    def grid(self, n: int, *controls: Any) -> Iterator[Update]:
        """Draw `n` pictures into one grid; yields as `repaint`. Raises UserError for a setting out of range."""
        began = time.perf_counter()
        wanted = self.checked(*controls)
        count = whole("pictures", n, 1, self.limits.grid)

        def draw(callback: Callable[..., None]) -> list[Image.Image]:
            return self.model.generate(
                count, self.labels(wanted), wanted.steps, wanted.guidance,
                seed=wanted.seed, sampler=wanted.sampler, callback_on_step_end=callback,
            )  # fmt: skip

        drawn = yield from self.watch(draw, wanted, count)
        whole_grid = image_grid(drawn, self.columns(count, wanted))
        about = wanted.metadata(self.model.class_names)
        yield Update(finished(count, "picture", began), None, [self.save(whole_grid, f"grid-{wanted.seed}", about)])

    def checked(self, label: int, sampler: str, steps: int, guidance: float, seed: int) -> Wanted:
        """The controls' values. Raises UserError where one is missing or out of range."""
        if guidance is None or not 0 <= guidance <= 100:
            raise UserError(f"guidance must lie between 0 and 100, got {guidance}")
        return Wanted(
            whole("label", label, IN_TURN, len(self.model.class_names) - 1),
            sampler,
            whole("steps", steps, 1, self.limits.steps),
            float(guidance),
            whole("seed", seed, 0, 2**32 - 1),
        )

    def labels(self, wanted: Wanted) -> int | list[int] | None:
        """The label as the generator takes it."""
        if not self.model.class_names or wanted.label == RANDOM:
            return None
        return list(range(len(self.model.class_names))) if wanted.label == IN_TURN else wanted.label

    def columns(self, count: int, wanted: Wanted) -> int:
        """Of a grid: one a class where they take turns, otherwise about as many as rows."""
        classes = len(self.model.class_names)
        return min(count, classes if wanted.label == IN_TURN and 1 < classes <= 16 else math.ceil(math.sqrt(count)))

    def watch(
        self, draw: Callable[[Callable[..., None]], list[Image.Image]], wanted: Wanted, count: int
    ) -> Generator[Update, None, list[Image.Image]]:
        """Run `draw` in the worker; yield updates with half-finished codes as pictures, and return what it drew."""
        messages: queue.SimpleQueue[Update | Future[list[Image.Image]]] = queue.SimpleQueue()
        stop = threading.Event()
        columns = count if count <= 4 else self.columns(count, wanted)
        latest: list[Tensor] = []
        next_preview = 0.0

        def show(text: str) -> None:
            messages.put(Update(note(text), image_grid(self.model.preview(latest[-1]), columns)))

        def on_step(model: ImageGenerator, step: int, left: float, state: dict[str, Tensor]) -> None:
            nonlocal next_preview
            if stop.is_set() or self.closing.is_set():
                raise Stopped
            latest[:] = [state["codes"]]
            before = time.perf_counter()
            if before >= next_preview:
                show(f"Drawing: step {step + 1} of {wanted.steps}")
                after = time.perf_counter()
                next_preview = after + (after - before) * (1 / PREVIEW_SHARE - 1)

        def work() -> list[Image.Image]:
            drawn = draw(on_step)
            if latest:
                show("Drawing: nearly done")
            return drawn

        yield Update(note("Drawing…"), "", [])
        future = self.worker.submit(work)
        future.add_done_callback(messages.put)
        try:
            while isinstance(message := messages.get(), Update):
                yield message
            return message.result()
        finally:
            stop.set()
            future.cancel()

    def save(self, picture: Image.Image, name: str, about: dict[str, str]) -> str:
        """Write a PNG into a new folder; returns its path."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(dir=self.folder)) / f"{name}.png"
        save_png(picture, path, about)
        return str(path)


def whole(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an integer. Raises UserError where it is none in [low, high]."""
    with suppress(TypeError, ValueError, OverflowError):
        if low <= value <= high and int(value) == value:
            return int(value)
    raise UserError(f"{name} must be a whole number from {low} to {high}, got {value}")


def note(text: str) -> str:
    """A line of the status."""
    return f'<p role="status">{html.escape(text, quote=False)}</p>'


def problem(text: str) -> str:
    """A line of the status that says what is wrong."""
    return f'<p role="alert" class="problem">{html.escape(text, quote=False)}</p>'


def finished(count: int, thing: str, began: float) -> str:
    """The last line of the status."""
    return note(f"{count} {thing}{'s' if count > 1 else ''} in {time.perf_counter() - began:.1f} s")


def told(error: Exception) -> str:
    """The status for an error: a mistake's own words; for anything else a plain line, and the rest goes to the log."""
    if isinstance(error, UserError):
        return problem(" ".join(str(error).split()))
    log.error("a request failed", exc_info=error)
    return problem(FAILED)


STYLE = """
.gradio-container { width: 100%; max-width: 1180px !important; margin: 0 auto !important;
    --body-text-color-subdued: var(--neutral-600); --block-info-text-color: var(--neutral-600); }
.dark .gradio-container { --body-text-color-subdued: var(--neutral-300); --block-info-text-color: var(--neutral-300); }
.main.app { width: 100%; }
#title h1 { display: flex; gap: 0.45em; align-items: center; margin-bottom: 0.2em; }
#title h1::before { content: ""; width: 1em; height: 1em; border-radius: 3px; background: conic-gradient(#e6007e 25%,
    #f59e0b 0 50%, #0ea5e9 0 75%, #4f46e5 0); }
#title p { color: var(--body-text-color-subdued); }
.status .html-container, #canvas .html-container { padding: 0; }
.status p { margin: 0; padding: 0.6em 0.9em; border-radius: 6px; background: var(--block-background-fill);
    border: 1px solid var(--border-color-primary); }
.status p.problem { color: #7f1d1d; background: #fef2f2; border-color: #dc2626; font-weight: 600; }
.dark .status p.problem { color: #fecaca; background: #450a0a; }
.mosaic img { image-rendering: pixelated; }
.mosaic .image-container:has(img) { padding: 34px 10px 10px; }
.mosaic .image-frame { width: 100%; }
.mosaic .image-frame img { width: 100%; height: auto; max-height: 70vh; object-fit: contain; }
#variants .grid-wrap { min-height: 0; max-height: none; padding: 34px 10px 10px; }
#variants .grid-container { padding-top: 0; }
"""

PAINTER_PAGE = """
<div class="tools" role="toolbar" aria-label="Painting tools">
  <label>Brush <input type="range" class="brush" min="1" max="50" value="14" aria-label="Brush size"></label>
  <button type="button" class="rub" aria-pressed="false">Eraser</button>
  <button type="button" class="undo">Undo</button>
  <button type="button" class="clear">Clear</button>
</div>
<div class="stage" hidden>
  <img alt="The picture to repaint">
  <canvas tabindex="0" role="img"
    aria-label="Mask. Paint with the mouse, or move with the arrow keys and press space to paint."></canvas>
  <span class="ring" aria-hidden="true"></span>
</div>
<p class="hint">Choose a picture above, then paint here over what should change.</p>
"""

PAINTER_STYLE = """
border: 1px solid var(--border-color-primary); border-radius: var(--block-radius); background: var(--block-background-fill);
padding: 10px;
.tools { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin-bottom: 10px; }
.tools label { display: flex; gap: 8px; align-items: center; flex: 1; color: var(--block-label-text-color); }
.brush { flex: 1; min-width: 60px; accent-color: #e6007e; }
.tools button { padding: 3px 12px; border: 1px solid var(--border-color-primary); border-radius: 6px;
    background: var(--button-secondary-background-fill); color: var(--body-text-color); cursor: pointer; }
.tools button[aria-pressed="true"] { background: #e6007e; border-color: #e6007e; color: white; }
.stage { position: relative; overflow: hidden; margin: 0 auto; max-width: 100%; border-radius: 4px; }
.stage[hidden] { display: none; }
.stage img, .stage canvas { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; max-width: none;
    image-rendering: pixelated; user-select: none; -webkit-user-drag: none; }
.stage canvas { cursor: none; touch-action: none; }
.stage canvas:focus-visible { outline: 3px solid #e6007e; outline-offset: -3px; }
.ring { position: absolute; display: none; pointer-events: none; box-sizing: border-box; border-radius: 50%;
    border: 2px solid white; box-shadow: 0 0 0 1px black, inset 0 0 0 1px black; transform: translate(-50%, -50%); }
.hint { display: grid; place-items: center; min-height: 300px; margin: 0; text-align: center;
    color: var(--body-text-color-subdued); background: repeating-conic-gradient(var(--background-fill-secondary) 0 25%,
    var(--background-fill-primary) 0 50%) 0 0 / 32px 32px; }
"""

# The canvas has the size that the server chose; a pixel of it is painted or not. `props.value` goes to the server.
PAINTER_SCRIPT = """
const find = (name) => element.querySelector(name);
const stage = find('.stage'), image = find('img'), canvas = find('canvas'), ring = find('.ring');
const brush = find('.brush'), rub = find('.rub'), pen = canvas.getContext('2d');
const colour = COLOUR;
let mask = new Uint8Array(0), past = [], last = null, at = null;

const radius = () => Math.max(0.5, brush.value / 200 * Math.max(canvas.width, canvas.height));
function show() {
  const pixels = pen.createImageData(canvas.width, canvas.height);
  mask.forEach((on, i) => { if (on) pixels.data.set(colour, 4 * i); });
  pen.putImageData(pixels, 0, 0);
}
function send() { props.value = mask.includes(1) ? canvas.toDataURL('image/png') : ''; }
function keep() { past = [...past.slice(-19), mask.slice()]; }
function stroke(from, to) {  // all pixels whose centre is near the way from one point to the other
  const r = radius(), on = rub.getAttribute('aria-pressed') === 'true' ? 0 : 1;
  const [dx, dy] = [to.x - from.x, to.y - from.y], length = dx * dx + dy * dy;
  const low = (a, b) => Math.max(0, Math.floor(Math.min(a, b) - r));
  const high = (a, b, most) => Math.min(most - 1, Math.ceil(Math.max(a, b) + r));
  for (let y = low(from.y, to.y); y <= high(from.y, to.y, canvas.height); y++) {
    for (let x = low(from.x, to.x); x <= high(from.x, to.x, canvas.width); x++) {
      const along = ((x + 0.5 - from.x) * dx + (y + 0.5 - from.y) * dy) / (length || 1);
      const t = Math.min(1, Math.max(0, along));
      const away = Math.hypot(x + 0.5 - from.x - t * dx, y + 0.5 - from.y - t * dy);
      if (away <= r || (x === Math.floor(to.x) && y === Math.floor(to.y))) mask[y * canvas.width + x] = on;
    }
  }
  show();
}
function place(event) {
  const box = canvas.getBoundingClientRect();
  return { x: (event.clientX - box.left) / box.width * canvas.width, y: (event.clientY - box.top) / box.height * canvas.height };
}
function point(to) {
  at = to;
  const scale = canvas.clientWidth / (canvas.width || 1), size = Math.max(6, 2 * radius() * scale) + 'px';
  Object.assign(ring.style, { display: 'block', width: size, height: size, left: to.x * scale + 'px', top: to.y * scale + 'px' });
}
canvas.addEventListener('pointerdown', (event) => {
  if (event.button !== 0) return;
  canvas.setPointerCapture(event.pointerId);
  keep(); last = place(event); stroke(last, last);
});
canvas.addEventListener('pointermove', (event) => {
  const to = place(event);
  point(to);
  if (last) { stroke(last, to); last = to; }
});
for (const end of ['pointerup', 'pointercancel']) {
  canvas.addEventListener(end, () => { if (last) { last = null; send(); } });
}
canvas.addEventListener('pointerleave', () => { if (!last) ring.style.display = 'none'; });
canvas.addEventListener('blur', () => { ring.style.display = 'none'; });
canvas.addEventListener('keydown', (event) => {
  const step = Math.max(1, radius()), ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const way = ways[event.key] ?? (event.key === ' ' ? [0, 0] : null);
  if (!way) return;
  event.preventDefault();
  const from = at ?? { x: canvas.width / 2, y: canvas.height / 2 };
  point({
    x: Math.min(canvas.width - 0.5, Math.max(0.5, from.x + step * way[0])),
    y: Math.min(canvas.height - 0.5, Math.max(0.5, from.y + step * way[1])),
  });
  if (event.key === ' ') { keep(); stroke(at, at); send(); }
});
brush.addEventListener('input', () => { if (at && ring.style.display === 'block') point(at); });
rub.addEventListener('click', () => rub.setAttribute('aria-pressed', rub.getAttribute('aria-pressed') !== 'true'));
find('.undo').addEventListener('click', () => { if (past.length) { mask = past.pop(); show(); send(); } });
find('.clear').addEventListener('click', () => { if (mask.includes(1)) { keep(); mask = mask.map(() => 0); show(); send(); } });

async function open() {
  const { picture, given } = props;
  stage.hidden = !picture;
  find('.hint').style.display = picture ? 'none' : '';
  past = []; last = at = null;
  ring.style.display = 'none';
  if (!picture) { mask = new Uint8Array(0); props.value = ''; return; }
  image.src = picture;
  await image.decode();
  if (props.picture !== picture || props.given !== given) return;
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  stage.style.aspectRatio = canvas.width + ' / ' + canvas.height;
  stage.style.width = 'min(100%, ' + 70 * canvas.width / canvas.height + 'vh)';
  mask = new Uint8Array(canvas.width * canvas.height);
  if (given) {
    const layer = new Image();
    layer.src = given;
    await layer.decode();
    pen.drawImage(layer, 0, 0);
    const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data;
    mask = mask.map((_, i) => (pixels[4 * i + 3] > 0 ? 1 : 0));
  }
  show(); send();
}
watch(['picture', 'given'], open);
open();
""".replace("COLOUR", str(list(MASK_COLOUR)))


def controls(model: ImageGenerator, limits: Limits, prefix: str) -> list[gr.components.Component]:
    """Label, sampler, steps, guidance and seed of a tab, in the order of `Studio.checked`; hidden where the model has none."""
    names = model.class_names
    classes = [("random", RANDOM), ("each in turn", IN_TURN)] + [(name, index) for index, name in enumerate(names)]
    usable = [name for name in SAMPLERS if isinstance(model.graph, Absorbing) or name not in NEEDS_MASK]
    label = gr.Dropdown(classes, value=RANDOM, label="Label", visible=bool(names), elem_id=f"{prefix}label")
    with gr.Row():
        sampler = gr.Dropdown(usable, value="tweedie", label="Sampler", elem_id=f"{prefix}sampler")
        steps = gr.Slider(1, limits.steps, value=16, step=1, label="Steps", elem_id=f"{prefix}steps")
    with gr.Row():
        guidance = gr.Slider(
            0, 10, value=1, step=0.1, label="Guidance", visible=model.guided, elem_id=f"{prefix}guidance"
        )
        seed = gr.Number(0, label="Seed", precision=0, elem_id=f"{prefix}seed")
    return [label, sampler, steps, guidance, seed]


def build_page(model: ImageGenerator, limits: Limits = DEFAULT_LIMITS) -> gr.Blocks:
    """The page, not yet served: a tab to repaint and one to draw grids. One request at a time reaches the model."""
    side, (rows, columns) = model.tokenizer.image_size, model.grid
    about = f"{side} x {side} pixels in {columns} x {rows} codes of {model.tokenizer.codebook_size:,}"
    if model.class_names:
        about += f", {len(model.class_names)} classes"
    still: dict[str, Any] = {"format": "png", "interactive": False}
    with gr.Blocks(title="smalti", analytics_enabled=False, delete_cache=(600, limits.keep_hours * 3600)) as page:
        gr.Markdown(f"# smalti\nPictures as mosaics. This model: {about}.", elem_id="title")
        with gr.Tab("Repaint"):
            with gr.Row():
                with gr.Column(scale=6):
                    picture = upload("Picture", "picture")
                    canvas = gr.HTML(
                        "", html_template=PAINTER_PAGE, css_template=PAINTER_STYLE, js_on_load=PAINTER_SCRIPT,
                        apply_default_css=False, elem_id="canvas", picture="", given="",
                    )  # fmt: skip
                    with gr.Accordion("Mask from a file", open=False):
                        mask = upload("Mask: white is repainted", "mask")
                with gr.Column(scale=5):
                    drawing = controls(model, limits, "")
                    with gr.Row():
                        variants = gr.Slider(
                            1, limits.variants, value=min(4, limits.variants), step=1, label="Variants", elem_id="count"
                        )
                        fit = gr.Checkbox(
                            True, label="Scale to the model", info="large pictures: sees more, paints more coarsely",
                            elem_id="fit",
                        )  # fmt: skip
                    with gr.Row():
                        press = gr.Button("Repaint", variant="primary", scale=3, elem_id="repaint")
                        stop = gr.Button("Stop", scale=1, elem_id="stop")
                    status = gr.HTML(elem_id="status", elem_classes="status")
                    codes = gr.Image(
                        label="Codes appearing", buttons=[], elem_id="codes", elem_classes="mosaic", **still
                    )
            results = gr.Gallery(
                label="Variants", columns=4, height="auto", object_fit="contain",
                buttons=["download_all", "download", "fullscreen"], elem_id="variants", elem_classes="mosaic", **still,
            )  # fmt: skip
        with gr.Tab("Grid"), gr.Row():
            with gr.Column(scale=5):
                number = gr.Slider(
                    1, limits.grid, value=min(16, limits.grid), step=1, label="Pictures", elem_id="number"
                )
                grid_drawing = controls(model, limits, "grid-")
                with gr.Row():
                    grid_press = gr.Button("Draw", variant="primary", scale=3, elem_id="draw")
                    grid_stop = gr.Button("Stop", scale=1, elem_id="grid-stop")
                grid_status = gr.HTML(elem_id="grid-status", elem_classes="status")
                grid_codes = gr.Image(
                    label="Codes appearing", buttons=[], elem_id="grid-codes", elem_classes="mosaic", **still
                )
            with gr.Column(scale=6):
                grid = gr.Image(
                    label="Grid", buttons=["download", "fullscreen"], elem_id="grid", elem_classes="mosaic", **still
                )

        page.studio = studio = Studio(model, limits, Path(results.GRADIO_CACHE))  # type: ignore[attr-defined]

        def opened(picture_path: str | None, mask_path: str | None = None) -> tuple[Any, str]:
            try:
                shown, given, said = studio.open_picture(picture_path, mask_path)
            except Exception as error:
                return gr.skip() if mask_path else gr.HTML(picture="", given="", value=""), told(error)
            return gr.HTML(picture=shown, given=given, value=given), said

        def new_picture(picture_path: str | None) -> tuple[Any, str, None]:
            return *opened(picture_path), None

        def repainted(*values: Any) -> Iterator[tuple[Any, ...]]:
            yield from on_page(studio.repaint(*values), lambda paths: paths)

        def drawn(*values: Any) -> Iterator[tuple[Any, ...]]:
            yield from on_page(studio.grid(*values), lambda paths: paths[0] if paths else None)

        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        reading: dict[str, Any] = {"concurrency_id": "reading", "concurrency_limit": 1, **quiet}
        working: dict[str, Any] = {"concurrency_id": "drawing", "concurrency_limit": 1, **quiet}
        waiting: dict[str, Any] = {"js": f"() => {json.dumps(note(WAITING))}", **quiet}
        refused: dict[str, Any] = {"js": f"() => {json.dumps(problem(REFUSED))}", **quiet}
        picture.change(new_picture, [picture], [canvas, status, mask], **reading)
        mask.upload(opened, [picture, mask], [canvas, status], **reading)
        press.click(None, None, [status], **waiting)
        job = press.click(
            repainted, [picture, mask, canvas, variants, fit, *drawing], [status, codes, results], **working
        )
        job.failure(None, None, [status], **refused)
        stop.click(lambda: note("Stopped."), None, [status], cancels=[job], queue=False, **quiet)
        grid_press.click(None, None, [grid_status], **waiting)
        job = grid_press.click(drawn, [number, *grid_drawing], [grid_status, grid_codes, grid], **working)
        job.failure(None, None, [grid_status], **refused)
        grid_stop.click(lambda: note("Stopped."), None, [grid_status], cancels=[job], queue=False, **quiet)
    for block in page.blocks.values():
        refuse_addresses(block)
    return page.queue(max_size=limits.waiting, default_concurrency_limit=1, api_open=False)


def on_page(updates: Iterator[Update], place: Callable[[list[str]], Any]) -> Iterator[tuple[Any, ...]]:
    """Updates as values of (status, codes, pictures); an error becomes a status, and the rest stays."""
    try:
        for update in updates:
            codes = gr.skip() if update.codes is None else update.codes or None
            yield update.status, codes, gr.skip() if update.pictures is None else place(update.pictures)
    except Exception as error:
        yield told(error), gr.skip(), gr.skip()


class TooLarge(Exception):
    """A body went over its limit."""


class BodyLimit:
    """ASGI middleware: a request's body may hold `most` bytes; more is answered by 413."""

    def __init__(self, app: Callable[..., Awaitable[None]], most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        came, answered = 0, False

        async def counted() -> Any:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self.most:
                raise TooLarge
            return message

        async def noted(message: Any) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self.app(scope, counted, noted)
        except TooLarge:
            if not answered:
                headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
                await send({"type": "http.response.start", "status": 413, "headers": headers})
                await send({"type": "http.response.body", "body": b"too large"})


def check_free(host: str, port: int) -> None:
    """Raise UserError unless a server can listen on `host` and `port`."""
    if not 1 <= port <= 65535:
        raise UserError(f"cannot listen on port {port}: give one from 1 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(address)
    except OSError as error:
        raise UserError(
            f"cannot listen on {host} port {port} ({error.strerror}): choose another with --port or --host"
        ) from error


@contextmanager
def served(
    model: ImageGenerator, host: str = "127.0.0.1", port: int = 7860, limits: Limits = DEFAULT_LIMITS
) -> Iterator[str]:
    """Serve the page while the context lasts; gives its address. Uploads and results are deleted at the end.

    Raises:
        UserError: the address cannot be listened on.
    """
    check_free(host, port)
    before = os.environ.get("GRADIO_TEMP_DIR")
    with tempfile.TemporaryDirectory(prefix="smalti-app-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # only for this server, and only for this user to read
        page = build_page(model, limits)
        try:
            page.launch(
                server_name=f"[{host}]" if ":" in host else host, server_port=port, share=False, inbrowser=False,
                quiet=True, prevent_thread_lock=True, max_file_size=f"{limits.upload_mb}mb", footer_links=[],
                run_history=False, enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False,
                css=STYLE, theme=gr.themes.Default(primary_hue="pink"), state_session_capacity=100,
                app_kwargs={
                    "middleware": [Middleware(BodyLimit, most=(limits.upload_mb + 1) * 2**20)],
                    "docs_url": None, "redoc_url": None, "openapi_url": None,
                },
            )  # fmt: skip
            yield str(page.local_url)
        finally:
            page.studio.close()  # type: ignore[attr-defined]
            page.close(verbose=False)
            if before is None:
                os.environ.pop("GRADIO_TEMP_DIR", None)
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


def serve(model: ImageGenerator, host: str = "127.0.0.1", port: int = 7860, limits: Limits = DEFAULT_LIMITS) -> None:
    """Serve the page until Ctrl-C. Only this machine can reach it unless another `host` is given. Raises as `served`."""
    with served(model, host, port, limits) as address, suppress(KeyboardInterrupt):
        print(f"the page is at {address} (stop it with Ctrl-C)", flush=True)
        threading.Event().wait()
