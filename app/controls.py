"""The controls of a tab: label, seed, and one control for each sampling option that the page can show.

The options come from the fields of the model's settings class: a field that is added there appears here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr

from app.choices import DEFAULT_SAMPLER, LABEL_WORDS, MAX_SEED, NO_CLASS, RANDOM, Choices
from app.events import QUIET
from app.uploads import Limits
from diffusion.sampler import samplers_for
from diffusion.settings import SamplingSettings, SettingField, SettingValue, setting_fields

if TYPE_CHECKING:
    from diffusion.pipeline import ImageGenerator

MAIN = ("sampler", "num_inference_steps", "guidance_scale")  # always visible; the others stand in an accordion
SLIDER_STEPS = 100  # of a slider of real numbers
NUMBER_STEP = 0.1  # of a real number without a greatest value


class TabControls(NamedTuple):
    """The controls of one tab; `options` by the names of the settings' fields."""

    label: gr.components.Component
    seed: gr.components.Component
    random_seed: gr.components.Component
    options: dict[str, gr.components.Component]

    def inputs(self) -> list[gr.components.Component]:
        """All of them: label, seed, random seed, then the options in order."""
        return [self.label, self.seed, self.random_seed, *self.options.values()]

    def choices(self, values: Sequence[object]) -> Choices:
        """What was chosen, of the values of `inputs()`."""
        label, seed, random_seed, *options = values
        return Choices(label, seed, random_seed, dict(zip(self.options, options, strict=True)))


def add_label(generator: ImageGenerator, words: Sequence[int], prefix: str) -> gr.components.Component:
    """Add the control of the label; element ids start with `prefix`. It is hidden for a model without classes.

    Args:
        words: the labels besides the classes, the first choice first. NO_CLASS is left out for a model that cannot sample
            without a class, and so is a word that is the name of a class.
    """
    names = generator.class_names
    offered = [
        (LABEL_WORDS[word], word)
        for word in words
        if LABEL_WORDS[word] not in names and (word != NO_CLASS or generator.guided)
    ]
    classes = offered + [(name, index) for index, name in enumerate(names)]
    return gr.Dropdown(
        classes, value=classes[0][1] if names else RANDOM, label="Label", visible=bool(names), elem_id=f"{prefix}label"
    )


def add_options(
    generator: ImageGenerator, limits: Limits, label: gr.components.Component, prefix: str, editing: bool
) -> TabControls:
    """Add the seed and the sampling options of a tab to the page. Those without use for the model are hidden.

    Args:
        label: the control of the label, to go with them.
        prefix: of the element ids.
        editing: whether the tab changes an image: the model's sampler for repainting may be another one.
    """
    fields = {field.name: field for field in offered_fields(generator, limits)}
    options: dict[str, gr.components.Component] = {}

    def add(name: str) -> None:
        value = getattr(generator.defaults, name)
        visible = generator.guided or not name.startswith("guidance")
        options[name] = setting_control(fields[name], value, visible, prefix)

    with gr.Row():
        repainting = generator.inpainting_settings().sampler
        if editing and repainting != generator.defaults.sampler:
            text = f"{generator.defaults.sampler}; {repainting} to repaint and outpaint"
            offered = [(text, DEFAULT_SAMPLER), *[(name, name) for name in fields["sampler"].choices]]
            options["sampler"] = gr.Dropdown(
                offered, value=DEFAULT_SAMPLER, label="Sampler", elem_id=f"{prefix}sampler"
            )
        else:
            add("sampler")
        add("num_inference_steps")
    with gr.Row():
        add("guidance_scale")
        with gr.Column(min_width=150):
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, elem_id=f"{prefix}seed")
            random_seed = gr.Checkbox(
                True, label="Random seed", info="turn off to repeat the one above", elem_id=f"{prefix}random"
            )
    with gr.Accordion("More sampling options", open=False, elem_id=f"{prefix}more"):
        gr.Markdown(f"The model's defaults: {describe_defaults(generator.defaults)}.", elem_classes="hint")
        for name in fields:
            if name not in MAIN:
                add(name)
    # Who types a seed wants that one.
    seed.input(None, None, random_seed, js="() => false", **QUIET)
    return TabControls(label, seed, random_seed, options)


def describe_defaults(settings: SamplingSettings) -> str:
    """The sampling settings in words: the main ones, and those that differ from the class's own defaults."""
    texts = [settings.summary()]
    for field in setting_fields(type(settings)):
        value = getattr(settings, field.name)
        if field.name not in (*MAIN, "sampler_options") and value != field.default:
            shown = " to ".join(f"{end:g}" for end in value) if isinstance(value, tuple) else value
            texts.append(f"{field.label.replace('-', ' ')} {shown}")
    return ", ".join(texts)


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
