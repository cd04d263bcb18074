"""The controls of a tab: label, seed, and one control for each sampling option that a page can show.

The options come from the fields of the model's settings class: a field that is added there appears here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr

from app.service import IN_TURN, MAX_SEED, RANDOM
from app.uploads import Limits
from diffusion.sampler import samplers_for
from diffusion.settings import SettingField, SettingValue, setting_fields

if TYPE_CHECKING:
    from diffusion.pipeline import ImageGenerator

MAIN = ("sampler", "num_inference_steps", "guidance_scale")  # always visible; the others stand in an accordion
SLIDER_STEPS = 100  # of a slider of real numbers
NUMBER_STEP = 0.1  # of a real number without a greatest value


class TabControls(NamedTuple):
    """The controls of one tab; `options` by the names of the settings' fields."""

    label: gr.components.Component
    seed: gr.components.Component
    options: dict[str, gr.components.Component]

    def inputs(self) -> list[gr.components.Component]:
        """All of them: label, seed, then the options in order."""
        return [self.label, self.seed, *self.options.values()]


def add_controls(generator: ImageGenerator, limits: Limits, prefix: str) -> TabControls:
    """Add the controls of a tab to the page; element ids start with `prefix`. Those without use for the model are hidden."""
    names = generator.class_names
    classes = [("random", RANDOM), ("each in turn", IN_TURN)] + [(name, index) for index, name in enumerate(names)]
    fields = {field.name: field for field in offered_fields(generator, limits)}
    options: dict[str, gr.components.Component] = {}

    def add(name: str) -> None:
        value = getattr(generator.defaults, name)
        visible = generator.guided or not name.startswith("guidance")
        options[name] = setting_control(fields[name], value, visible, prefix)

    label = gr.Dropdown(classes, value=RANDOM, label="Label", visible=bool(names), elem_id=f"{prefix}label")
    with gr.Row():
        add("sampler")
        add("num_inference_steps")
    with gr.Row():
        add("guidance_scale")
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, elem_id=f"{prefix}seed")
    with gr.Accordion("More sampling options", open=False, elem_id=f"{prefix}more"):
        for name in fields:
            if name not in MAIN:
                add(name)
    return TabControls(label, seed, options)


def offered_fields(generator: ImageGenerator, limits: Limits) -> list[SettingField]:
    """The sampling options that the page shows: numbers, switches and choices; not intervals or mappings.

    The samplers are those that fit the model's graph, and the number of steps ends at the page's limit.
    """
    fields = [_on_page(field, generator, limits) for field in setting_fields(type(generator.defaults))]
    return [field for field in fields if field.type in (int, float, bool) or field.choices]


def setting_control(
    field: SettingField, value: SettingValue, visible: bool, prefix: str = ""
) -> gr.components.Component:
    """The control of one sampling option with its first value; its id is `prefix` and the option's name in messages."""
    common: dict[str, Any] = {
        "label": field.label.replace("-", " ").capitalize(),
        "info": None if field.name in MAIN else field.text,
        "visible": visible,
        "elem_id": prefix + field.label,
    }
    if isinstance(value, str):
        return gr.Dropdown(list(field.choices), value=value, **common)
    if isinstance(value, bool):
        return gr.Checkbox(value, **common)
    if not isinstance(value, (int, float)):
        raise TypeError(f"the page has no control for {field.name}")
    span = field.high - max(field.low, field.above)
    step = 1 if field.type is int else span / SLIDER_STEPS if math.isfinite(span) else NUMBER_STEP
    low = max(field.low, field.above + step)  # gradio includes the ends of a range
    if math.isfinite(span):
        return gr.Slider(low, field.high, value=min(value, field.high), step=step, **common)
    return gr.Number(
        value,
        minimum=low if math.isfinite(low) else None,
        maximum=field.high if math.isfinite(field.high) else None,
        step=step,
        precision=0 if field.type is int else None,
        **common,
    )


def _on_page(field: SettingField, generator: ImageGenerator, limits: Limits) -> SettingField:
    if field.name == "sampler":
        return replace(field, choices=tuple(samplers_for(generator.prior.graph)))
    if field.name == "num_inference_steps":
        return replace(field, high=min(field.high, limits.steps))
    return field
