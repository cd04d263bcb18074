"""The image that is changed: examples to start from, the upload, the canvas to paint on, and the mask from a file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any, NamedTuple

import gradio as gr

from app.events import AT_ONCE, QUIET, READING
from app.resources import resource
from app.service import GenerationService, StoppedError
from app.status import problem_of
from app.uploads import MASK_COLOR, Limits, open_image, upload_path
from common.errors import UserError

log = logging.getLogger("smalti.app")

FILE_HEIGHT = 110  # pixels


class ImagePanel(NamedTuple):
    """The components: the files of the image and of the mask, and the canvas whose value is the painted mask."""

    image: gr.File
    canvas: gr.HTML
    mask: gr.File


def add_image_panel(service: GenerationService, page: gr.Blocks) -> ImagePanel:
    """Add the components of the image."""
    image = gr.File(label="Image", height=FILE_HEIGHT, elem_id="picture")
    add_examples(service, page, "Or an image sampled from the model", "examples", image)
    canvas = gr.HTML(
        "", html_template=resource("painter.html"), css_template=resource("painter.css"),
        js_on_load=resource("painter.js"), apply_default_css=False, elem_id="canvas",
        image="", paint="", color=list(MASK_COLOR),
    )  # fmt: skip
    with gr.Accordion("Mask from a file", open=False):
        mask = gr.File(label="Mask: white is repainted", height=FILE_HEIGHT, elem_id="mask")
    return ImagePanel(image, canvas, mask)


def connect_image(panel: ImagePanel, status: gr.HTML, limits: Limits) -> None:
    """Show an image or a mask when it is chosen."""

    def open_files(image_file: object, mask_file: object = None) -> tuple[Any, str]:
        try:
            opened = open_image(upload_path(image_file), upload_path(mask_file), limits)
        except Exception as error:  # a refused mask leaves the canvas as it is, a refused image empties it
            canvas_update = gr.skip() if mask_file is not None else gr.HTML(image="", paint="", value="")
            return canvas_update, problem_of(error)
        return gr.HTML(image=opened.image, paint=opened.mask, value=opened.mask), opened.status

    def open_new_image(image_file: object) -> tuple[Any, str, None]:
        return *open_files(image_file), None

    panel.image.change(open_new_image, [panel.image], [panel.canvas, status, panel.mask], **READING)
    panel.mask.upload(open_files, [panel.image, panel.mask], [panel.canvas, status], **READING)


def add_examples(service: GenerationService, page: gr.Blocks, label: str, elem_id: str, chosen: gr.File) -> None:
    """Add images sampled from the model, made when a page is opened; a click puts one into `chosen`."""
    if not service.limits.examples:
        return
    gallery = gr.Gallery(
        label=label, columns=service.limits.examples, height="auto", object_fit="contain", allow_preview=False,
        interactive=False, buttons=[], elem_id=elem_id, elem_classes="examples pixels",
    )  # fmt: skip

    def sample() -> Iterator[list[str]]:
        found: list[str] = []
        try:
            for index in range(service.limits.examples):
                found.append(service.example(index))
                yield found
        except (StoppedError, CancelledError):  # the server ends
            return
        except Exception:
            log.exception("no examples could be sampled")

    def choose(event: gr.SelectData) -> Any:  # noqa: ANN401 - a path, or gradio's sign for no change
        with suppress(UserError):  # an index that the page does not send
            return service.example(event.index)
        return gr.skip()

    page.load(sample, None, gallery, concurrency_id="examples", concurrency_limit=8, **QUIET)
    gallery.select(choose, None, chosen, **AT_ONCE)


def add_last_image(service: GenerationService, page: gr.Blocks) -> gr.File:
    """Add the upload of the last image of a morph, and show it."""
    limits = service.limits
    last = gr.File(label="Last image, of the same size", height=FILE_HEIGHT, elem_id="last")
    add_examples(service, page, "Or an image sampled from the model", "last-examples", last)
    shown = gr.HTML(elem_id="last-shown", elem_classes="status pixels")

    def show(file: object) -> str:
        try:
            opened = open_image(upload_path(file), None, limits)
        except Exception as error:
            return problem_of(error)
        return f'<img alt="The last image" src="{opened.image}">' if opened.image else ""

    last.change(show, [last], [shown], **READING)
    return last
