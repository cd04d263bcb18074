"""The tab that changes an image: one image and one set of sampling options for all operations, and their results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gradio as gr

from app.choices import NO_CLASS, RANDOM
from app.controls import TabControls, add_label, add_options
from app.events import AT_ONCE, QUIET, connect, connect_stop, on_page
from app.image_panel import add_image_panel, connect_image
from app.operations import Operation, add_operations
from app.service import GenerationService, Update
from app.status import note, problem_of
from app.uploads import upload_path
from common.errors import UserError

FIRST_STEP = "Choose an image, or one that the model sampled."
SHOW_CANVAS = "() => document.querySelector('#canvas').scrollIntoView({behavior: 'smooth', block: 'center'})"


def add_edit_tab(service: GenerationService, page: gr.Blocks) -> None:
    """Add the components and events of the tab."""
    generator, limits = service.generator, service.limits
    with gr.Column(scale=6):
        panel = add_image_panel(service, page)
    with gr.Column(scale=5):
        with gr.Row():
            label = add_label(generator, (NO_CLASS, RANDOM), "")
            variants = gr.Slider(
                1, limits.variants, value=min(4, limits.variants), step=1, label="Variants", elem_id="count"
            )
        operations = add_operations(service, page, panel, variants)
        with gr.Row(elem_id="progress"):
            status = gr.HTML(note(FIRST_STEP), elem_id="status", elem_classes="status")
            stop = gr.Button("Stop", scale=0, min_width=90, elem_id="stop")
        previews = gr.HTML(elem_id="codes", elem_classes="previews pixels")
        results = gr.Gallery(
            label="Results", columns=2, height="auto", object_fit="contain", interactive=False, format="png",
            buttons=["download_all", "download", "fullscreen"], elem_id="variants", elem_classes="pixels",
        )  # fmt: skip
        use = gr.Button("Use as the image", elem_id="use")
        controls = add_options(generator, limits, label, "", editing=True)
    connect_image(panel, status, limits)
    outputs = [status, previews, results, controls.seed]
    jobs = [
        connect(
            operation.start, handler(service, operation, controls), [*operation.inputs, *controls.inputs()], outputs
        )
        for operation in operations
    ]
    connect_stop(stop, jobs, status)
    connect_use(use, results, panel.image, status)


def handler(
    service: GenerationService, operation: Operation, controls: TabControls
) -> Callable[..., Iterator[tuple[Any, ...]]]:
    """What the button of an operation starts."""
    own = len(operation.inputs)

    def run(*values: object) -> Iterator[Update]:
        yield from service.run(operation.job(values[:own], controls.choices(values[own:])))

    def start(*values: object) -> Iterator[tuple[Any, ...]]:
        yield from on_page(
            run(*values), lambda paths: gr.Gallery(paths, columns=2 if len(paths) <= 4 else 3, selected_index=None)
        )

    return start


def connect_use(use: gr.Button, results: gr.Gallery, image: gr.File, status: gr.HTML) -> None:
    """Let `use` put the chosen result in the place of the image; with one result, that one."""
    chosen = gr.State(None)  # the path of the result that was clicked last

    def choose(shown: object, event: gr.SelectData) -> str | None:
        return dict(enumerate(result_paths(shown))).get(event.index)

    def take(shown: object, path: object) -> tuple[Any, Any]:
        paths = result_paths(shown)
        try:
            if not paths:
                raise UserError("there is no result yet: press the button of a tab first")
            if path not in paths and len(paths) > 1:
                raise UserError("choose one of the results first: click on it")
        except UserError as error:
            return gr.skip(), problem_of(error)
        return path if path in paths else paths[0], gr.skip()

    results.select(choose, [results], chosen, **AT_ONCE)
    use.click(take, [results, chosen], [image, status], **AT_ONCE).then(None, None, None, js=SHOW_CANVAS, **QUIET)


def result_paths(shown: object) -> list[str]:
    """The paths of a gallery's images, as the browser names them. gradio accepts only files of this server there."""
    items = shown if isinstance(shown, Sequence) else []
    paths = (upload_path(item.get("image")) for item in items if isinstance(item, Mapping))
    return [path for path in paths if path is not None]
