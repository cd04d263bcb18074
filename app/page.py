"""The page, built with gradio: a tab that repaints parts of an image and a tab that samples image grids."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from typing import Any

import gradio as gr

from app.controls import TabControls, add_controls
from app.service import GenerationService, Update
from app.status import REFUSED, WAITING, note, problem, problem_of
from app.uploads import MASK_COLOR, open_image, upload_path

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
# preprocess=False: the handlers get the values as the browser sent them and check everything themselves. gradio's own
# preprocessing would leave a temporary file behind for each upload that it hands over.
READING: dict[str, Any] = {"concurrency_id": "reading", "concurrency_limit": 1, "preprocess": False, **QUIET}
GENERATING: dict[str, Any] = {"concurrency_id": "generating", "concurrency_limit": 1, "preprocess": False, **QUIET}
OUTPUT_ONLY: dict[str, Any] = {"format": "png", "interactive": False, "elem_classes": "pixels"}
CLEAN_UP_SECONDS = 600


def resource(name: str) -> str:
    """The text of a file of this package."""
    return files("app").joinpath(name).read_text("utf-8")


def build_page(service: GenerationService) -> gr.Blocks:
    """The page, not yet served. One request at a time reaches the model."""
    limits = service.limits
    kept_seconds = limits.keep_hours * 3600
    page = gr.Blocks(title="smalti", analytics_enabled=False, delete_cache=(CLEAN_UP_SECONDS, kept_seconds))
    with page:
        gr.Markdown(f"# smalti\n{describe_model(service)}", elem_id="title")
        with gr.Tab("Repaint"):
            add_repaint_tab(service)
        with gr.Tab("Grid"), gr.Row():
            add_grid_tab(service)
    page.queue(max_size=limits.waiting, default_concurrency_limit=1, api_open=False)
    return page


def describe_model(service: GenerationService) -> str:
    """One sentence about the model."""
    tokenizer, (rows, columns) = service.generator.tokenizer, service.generator.prior.grid
    text = (
        f"This model represents images of {tokenizer.image_size} x {tokenizer.image_size} pixels as "
        f"{columns} x {rows} codes from a codebook of {tokenizer.codebook_size:,}"
    )
    classes = len(service.generator.class_names)
    return f"{text}, in {classes} classes." if classes else f"{text}."


def add_repaint_tab(service: GenerationService) -> None:
    """Add the components and events of the tab that repaints."""
    limits = service.limits
    with gr.Row():
        with gr.Column(scale=6):
            image = gr.File(label="Image", height=130, elem_id="picture")
            canvas = gr.HTML(
                "", html_template=resource("painter.html"), css_template=resource("painter.css"),
                js_on_load=resource("painter.js"), apply_default_css=False, elem_id="canvas",
                image="", paint="", color=list(MASK_COLOR),
            )  # fmt: skip
            with gr.Accordion("Mask from a file", open=False):
                mask = gr.File(label="Mask: white is repainted", height=130, elem_id="mask")
        with gr.Column(scale=5):
            controls = add_controls(service.generator, limits, "")
            with gr.Row():
                variants = gr.Slider(
                    1, limits.variants, value=min(4, limits.variants), step=1, label="Variants", elem_id="count"
                )
                fit = gr.Checkbox(
                    True, label="Scale to the model", info="sees more of a large image, with less detail", elem_id="fit"
                )
            start, stop, status, codes = add_run_row("Repaint", "repaint", "")
    results = gr.Gallery(
        label="Variants", columns=4, height="auto", object_fit="contain",
        buttons=["download_all", "download", "fullscreen"], elem_id="variants", **OUTPUT_ONLY,
    )  # fmt: skip

    def open_files(image_file: object, mask_file: object = None) -> tuple[Any, str]:
        try:
            opened = open_image(upload_path(image_file), upload_path(mask_file), limits)
        except Exception as error:  # a refused mask leaves the canvas as it is, a refused image empties it
            canvas_update = gr.skip() if mask_file is not None else gr.HTML(image="", paint="", value="")
            return canvas_update, problem_of(error)
        return gr.HTML(image=opened.image, paint=opened.mask, value=opened.mask), opened.status

    def open_new_image(image_file: object) -> tuple[Any, str, None]:
        return *open_files(image_file), None

    def run(image_file: object, mask_file: object, *values: object) -> Iterator[Update]:
        canvas_url, number, scaled, *rest = values
        yield from service.repaint(
            upload_path(image_file), upload_path(mask_file), canvas_url, number, scaled, *read_controls(controls, rest)
        )

    def repaint(*values: object) -> Iterator[tuple[Any, ...]]:
        yield from on_page(run(*values), lambda paths: paths)

    image.change(open_new_image, [image], [canvas, status, mask], **READING)
    mask.upload(open_files, [image, mask], [canvas, status], **READING)
    connect(start, stop, repaint, [image, mask, canvas, variants, fit, *controls.inputs()], [status, codes, results])


def add_grid_tab(service: GenerationService) -> None:
    """Add the components and events of the tab that samples image grids."""
    limits = service.limits
    with gr.Column(scale=5):
        number = gr.Slider(1, limits.grid, value=min(16, limits.grid), step=1, label="Images", elem_id="number")
        controls = add_controls(service.generator, limits, "grid-")
        start, stop, status, codes = add_run_row("Sample", "draw", "grid-")
    with gr.Column(scale=6):
        grid = gr.Image(label="Grid", buttons=["download", "fullscreen"], elem_id="grid", **OUTPUT_ONLY)

    def run(count: object, *values: object) -> Iterator[Update]:
        yield from service.grid(count, *read_controls(controls, values))

    def sample(*values: object) -> Iterator[tuple[Any, ...]]:
        yield from on_page(run(*values), lambda paths: paths[0] if paths else None)

    connect(start, stop, sample, [number, *controls.inputs()], [status, codes, grid])


def add_run_row(text: str, start_id: str, prefix: str) -> tuple[gr.Button, gr.Button, gr.HTML, gr.Image]:
    """Add the start and stop buttons, the status and the preview of a tab."""
    with gr.Row():
        start = gr.Button(text, variant="primary", scale=3, elem_id=start_id)
        stop = gr.Button("Stop", scale=1, elem_id=f"{prefix}stop")
    status = gr.HTML(elem_id=f"{prefix}status", elem_classes="status")
    codes = gr.Image(label="Preview of the codes", buttons=[], elem_id=f"{prefix}codes", **OUTPUT_ONLY)
    return start, stop, status, codes


def read_controls(controls: TabControls, values: Sequence[object]) -> tuple[object, object, dict[str, object]]:
    """(label, seed, sampling options by name) of the values of `controls.inputs()`."""
    label, seed, *options = values
    return label, seed, dict(zip(controls.options, options, strict=True))


def connect(
    start: gr.Button,
    stop: gr.Button,
    handler: Callable[..., Iterator[tuple[Any, ...]]],
    inputs: Sequence[gr.components.Component],
    outputs: Sequence[gr.components.Component],
) -> None:
    """Let `start` run the handler and `stop` cancel it. The first of `outputs` is the status."""
    status = [outputs[0]]
    start.click(None, None, status, js=f"() => {json.dumps(note(WAITING))}", **QUIET)
    job = start.click(handler, inputs, outputs, **GENERATING)
    job.failure(None, None, status, js=f"() => {json.dumps(problem(REFUSED))}", **QUIET)
    stop.click(lambda: note("Stopped."), None, status, cancels=[job], queue=False, **QUIET)


def on_page(updates: Iterator[Update], show: Callable[[list[str]], object]) -> Iterator[tuple[Any, ...]]:
    """Updates as values of (status, codes, results). An error becomes a status, and the rest stays as it is."""
    try:
        for update in updates:
            codes = gr.skip() if update.codes is None else update.codes or None
            yield update.status, codes, gr.skip() if update.images is None else show(update.images)
    except Exception as error:
        yield problem_of(error), gr.skip(), gr.skip()
