"""The tabs of the four operations on an image: their own controls, and the job that a press of their button starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import gradio as gr

from app.choices import Choices
from app.image_panel import ImagePanel, add_last_image
from app.jobs import MAX_FEATHER, MAX_MARGIN, Edges, Job, morph_job, outpaint_job, repaint_job, vary_job
from app.service import GenerationService
from app.uploads import upload_path

SIDES = ("Left", "Top", "Right", "Bottom")


class Operation(NamedTuple):
    """One operation.

    Attributes:
        start: its button.
        inputs: its components.
        job: called with their values and the choices of the shared controls.
    """

    start: gr.Button
    inputs: list[gr.components.Component]
    job: Callable[[Sequence[object], Choices], Job]


def add_operations(
    service: GenerationService,
    page: gr.Blocks,
    panel: ImagePanel,
    variants: gr.Slider,
) -> list[Operation]:
    """Add one tab for each operation."""
    operations = []
    with gr.Tabs(elem_id="operations"):
        with gr.Tab("Repaint"):
            operations.append(add_repaint(service, panel, variants))
        with gr.Tab("Outpaint"):
            operations.append(add_outpaint(service, panel, variants))
        with gr.Tab("Vary"):
            operations.append(add_vary(service, panel, variants))
        with gr.Tab("Morph"):
            operations.append(add_morph(service, page, panel))
    return operations


def add_repaint(service: GenerationService, panel: ImagePanel, variants: gr.Slider) -> Operation:
    """Add the controls of repainting the painted part."""
    margin, feather = add_edges("")
    fit = gr.Checkbox(
        True, label="Scale to the model", info="sees more of a large image, with less detail", elem_id="fit"
    )
    start = gr.Button("Repaint", variant="primary", elem_id="repaint")

    def job(values: Sequence[object], choices: Choices) -> Job:
        image, canvas, mask, count, scaled, *near = values
        return repaint_job(
            service.generator, service.limits, upload_path(image), upload_path(mask), canvas, count, scaled,
            Edges(*near), choices,
        )  # fmt: skip

    return Operation(start, [*panel, variants, fit, margin, feather], job)


def add_outpaint(service: GenerationService, panel: ImagePanel, variants: gr.Slider) -> Operation:
    """Add the controls of extending the image."""
    limits = service.limits
    first = min(limits.extend, service.generator.tokenizer.image_size // 2)
    with gr.Row():
        sides = [
            gr.Number(
                first if name == "Right" else 0, label=name, precision=0, minimum=0, maximum=limits.extend, min_width=70,
                elem_id=f"outpaint-{name.lower()}",
            )
            for name in SIDES
        ]  # fmt: skip
    margin, feather = add_edges("outpaint-")
    start = gr.Button("Outpaint", variant="primary", elem_id="outpaint")

    def job(values: Sequence[object], choices: Choices) -> Job:
        image, count, *rest = values
        return outpaint_job(service.generator, limits, upload_path(image), rest[:4], count, Edges(*rest[4:]), choices)

    return Operation(start, [panel.image, variants, *sides, margin, feather], job)


def add_vary(service: GenerationService, panel: ImagePanel, variants: gr.Slider) -> Operation:
    """Add the controls of varying the image."""
    strength = add_strength("how much of the image changes", "strength")
    start = gr.Button("Vary", variant="primary", elem_id="vary")

    def job(values: Sequence[object], choices: Choices) -> Job:
        image, count, noised = values
        return vary_job(service.generator, service.limits, upload_path(image), noised, count, choices)

    return Operation(start, [panel.image, variants, strength], job)


def add_morph(service: GenerationService, page: gr.Blocks, panel: ImagePanel) -> Operation:
    """Add the controls of morphing the image into another."""
    last = add_last_image(service, page)
    with gr.Row():
        frames = gr.Slider(2, service.limits.frames, value=8, step=1, label="Images", min_width=200, elem_id="frames")
        strength = add_strength("how much changes halfway", "morph-strength")
    start = gr.Button("Morph", variant="primary", elem_id="morph")

    def job(values: Sequence[object], choices: Choices) -> Job:
        image, other, noised, count = values
        return morph_job(
            service.generator, service.limits, upload_path(image), upload_path(other), noised, count, choices
        )

    return Operation(start, [panel.image, last, strength, frames], job)


def add_edges(prefix: str) -> tuple[gr.Slider, gr.Slider]:
    """Add the controls of the margin and of the blend width."""
    with gr.Row():
        margin = gr.Slider(
            0, MAX_MARGIN, value=1, step=1, label="Margin", info="codes sampled again around the new part",
            min_width=200, elem_id=f"{prefix}margin",
        )  # fmt: skip
        feather = gr.Slider(
            0, MAX_FEATHER, value=0, step=1, label="Feather", info="width of the blend in pixels",
            min_width=200, elem_id=f"{prefix}feather",
        )  # fmt: skip
    return margin, feather


def add_strength(info: str, elem_id: str) -> gr.Slider:
    """Add the control of a strength."""
    return gr.Slider(0.05, 1, value=0.5, step=0.05, label="Strength", info=info, min_width=200, elem_id=elem_id)
