"""The page, built with gradio: a tab that changes an image, and a tab that samples image grids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from app.choices import IN_TURN, NO_CLASS, RANDOM
from app.controls import add_label, add_options
from app.edit_tab import add_edit_tab
from app.events import connect, connect_stop, on_page
from app.jobs import grid_job
from app.service import GenerationService, Update


def build_page(service: GenerationService) -> gr.Blocks:
    """The page, not yet served. One job at a time reaches the model."""
    page = gr.Blocks(title="smalti", analytics_enabled=False)
    with page:
        gr.Markdown(f"# smalti\n{describe_model(service)}", elem_id="title")
        with gr.Tab("Edit"), gr.Row():
            add_edit_tab(service, page)
        with gr.Tab("Grid"), gr.Row():
            add_grid_tab(service)
    page.queue(max_size=service.limits.waiting, default_concurrency_limit=1, api_open=False)
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


def add_grid_tab(service: GenerationService) -> None:
    """Add the components and events of the tab that samples image grids."""
    generator, limits = service.generator, service.limits
    with gr.Column(scale=5):
        with gr.Row():
            label = add_label(generator, (RANDOM, IN_TURN, NO_CLASS), "grid-")
            number = gr.Slider(1, limits.grid, value=min(16, limits.grid), step=1, label="Images", elem_id="number")
        with gr.Row():
            start = gr.Button("Sample", variant="primary", scale=3, elem_id="draw")
            stop = gr.Button("Stop", scale=1, elem_id="grid-stop")
        status = gr.HTML(elem_id="grid-status", elem_classes="status")
        controls = add_options(generator, limits, label, "grid-", editing=False)
    with gr.Column(scale=6):
        previews = gr.HTML(elem_id="grid-codes", elem_classes="previews pixels")
        grid = gr.Image(
            label="Grid", format="png", interactive=False, buttons=["download", "fullscreen"], elem_id="grid",
            elem_classes="pixels",
        )  # fmt: skip

    def run(count: object, *values: object) -> Iterator[Update]:
        yield from service.run(grid_job(generator, limits, count, controls.choices(values)))

    def sample(*values: object) -> Iterator[tuple[Any, ...]]:
        yield from on_page(run(*values), lambda paths: paths[0] if paths else None)

    job = connect(start, sample, [number, *controls.inputs()], [status, previews, grid, controls.seed])
    connect_stop(stop, [job], status)
