import io
import re
from dataclasses import dataclass, fields

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page's tests need gradio: pip install -e '.[app]'")
import gradio as gr

from app.choices import DEFAULT_SAMPLER, IN_TURN, NO_CLASS, RANDOM
from app.controls import MAIN, add_label, add_options, describe_defaults, offered_fields, setting_control
from app.server import served
from app.uploads import DEFAULT_LIMITS, Limits
from diffusion.graph import Absorbing, Uniform
from diffusion.sampler import samplers_for
from diffusion.settings import SamplingSettings, option, setting_fields
from tests.app.client import Client, free_port
from tests.app.fake_generator import FakeGenerator


@dataclass(frozen=True)
class MoreSettings(SamplingSettings):
    """The settings of a model with options of its own."""

    sharpness: float = option(0.5, "how sharp", ["--sharpness"], low=0, high=1)
    rounds: int = option(3, "how many rounds", ["--rounds"], low=1)
    shift: float = option(0.0, "how far", ["--shift"], high=5)
    palette: str = option("warm", "which colors", ["--palette"], choices=("warm", "cold"))


def controls_of(generator, limits=DEFAULT_LIMITS, editing=False, words=(NO_CLASS, RANDOM)):
    with gr.Blocks():
        return add_options(generator, limits, add_label(generator, words, "grid-"), "grid-", editing)


def test_every_number_switch_and_choice_has_a_control():
    options = controls_of(FakeGenerator()).options
    assert set(options) == {field.name for field in fields(SamplingSettings)} - {"sampler_options", "guidance_interval"}


def test_first_values_are_the_generation_defaults():
    defaults = SamplingSettings(num_inference_steps=7, sampler="halton", guidance_scale=3.0, temperature=0.8)
    options = controls_of(FakeGenerator(defaults=defaults)).options
    assert {name: control.value for name, control in options.items()} == {
        name: getattr(defaults, name) for name in options
    }


def test_defaults_without_a_control_are_shown_too():
    defaults = SamplingSettings(sampler="remdm", sampler_options={"eta": 0.1}, guidance_interval=(0.2, 0.8), top_p=0.9)
    assert (
        describe_defaults(defaults) == "remdm, eta 0.1, 16 steps, guidance 1, guidance interval 0.2 to 0.8, top p 0.9"
    )
    assert describe_defaults(SamplingSettings()) == "tweedie, 16 steps, guidance 1"


@pytest.mark.parametrize(
    ("classes", "guided", "words", "expected"),
    [
        (["a", "b"], True, (NO_CLASS, RANDOM), ["none", "random", "a", "b"]),
        (["a", "b"], True, (RANDOM, IN_TURN, NO_CLASS), ["random", "each in turn", "none", "a", "b"]),
        (["a", "b"], False, (NO_CLASS, RANDOM), ["random", "a", "b"]),  # trained without label dropout
        (["none", "random"], True, (NO_CLASS, RANDOM), ["none", "random"]),  # classes, whatever their names
    ],
)
def test_the_first_label_is_the_default(classes, guided, words, expected):
    generator = FakeGenerator(classes)
    generator.guided = guided
    label = controls_of(generator, words=words).label
    assert [name for name, _ in label.choices] == expected
    assert label.value == label.choices[0][1]
    assert {value for name, value in label.choices if name in classes} == set(range(len(classes)))


def test_the_sampler_of_repainting_is_named_where_it_is_another_one():
    for editing, graph in [(True, Absorbing), (False, Uniform)]:
        assert controls_of(FakeGenerator(graph=graph), editing=editing).options["sampler"].value == "tweedie"
    sampler = controls_of(FakeGenerator(graph=Uniform), editing=True).options["sampler"]
    assert sampler.value == DEFAULT_SAMPLER
    assert sampler.choices[0] == ("tweedie; predictor_corrector to repaint and outpaint", DEFAULT_SAMPLER)
    assert [value for _, value in sampler.choices[1:]] == list(samplers_for(Uniform(16)))


def test_the_seed_is_random_unless_one_is_typed():
    controls = controls_of(FakeGenerator())
    assert controls.random_seed.value is True
    choices = controls.choices([1, 5, False, *controls.options])
    assert choices == (1, 5, False, {name: name for name in controls.options})


@pytest.mark.parametrize("graph", [Absorbing, Uniform])
def test_samplers_are_those_that_fit_the_graph(graph):
    sampler = controls_of(FakeGenerator(graph=graph)).options["sampler"]
    assert [value for _, value in sampler.choices] == list(samplers_for(graph(16)))


def test_steps_end_at_the_limit_of_the_page():
    defaults = SamplingSettings(num_inference_steps=500)
    steps = controls_of(FakeGenerator(defaults=defaults), Limits(steps=50)).options["num_inference_steps"]
    assert (steps.minimum, steps.maximum, steps.value) == (1, 50, 50)


def test_ranges_are_those_of_the_fields():
    controls = {field.name: setting_control(field, field.default, True) for field in setting_fields(MoreSettings)
                if field.name in ("top_p", "temperature", "guidance_scale", "sharpness", "rounds", "shift")}  # fmt: skip
    assert isinstance(controls["sharpness"], gr.Slider)
    assert (controls["sharpness"].minimum, controls["sharpness"].maximum) == (0, 1)
    assert (controls["top_p"].minimum, controls["top_p"].maximum) == (0.01, 1), "0 is not a valid top-p"
    for name in ("temperature", "guidance_scale", "rounds"):
        assert isinstance(controls[name], gr.Number), name
        assert controls[name].maximum is None, name
    assert controls["guidance_scale"].minimum == 0
    assert controls["temperature"].minimum > 0
    assert (controls["rounds"].minimum, controls["rounds"].precision) == (1, 0)
    assert (controls["shift"].minimum, controls["shift"].maximum) == (None, 5)


def test_only_the_main_options_are_outside_the_accordion():
    options = controls_of(FakeGenerator()).options
    outside = {name for name, control in options.items() if not inside_accordion(control)}
    assert outside == set(MAIN)


def inside_accordion(block) -> bool:
    while block is not None and not isinstance(block, gr.Accordion):
        block = block.parent
    return block is not None


def test_controls_without_use_are_hidden():
    controls = controls_of(FakeGenerator(classes=()))
    hidden = {name for name, control in controls.options.items() if not control.visible}
    assert hidden == {"guidance_scale", "guidance_ramp"}
    assert not controls.label.visible
    assert all(control.visible for control in controls_of(FakeGenerator()).inputs())


def test_a_field_of_a_subclass_appears_and_reaches_the_generator():
    generator = FakeGenerator(defaults=MoreSettings(num_inference_steps=2))
    offered = [field.name for field in offered_fields(generator, DEFAULT_LIMITS)]
    assert offered[-4:] == ["sharpness", "rounds", "shift", "palette"]
    with served(generator, port=free_port()) as url:
        client = Client(url)
        answer = client.ask(
            Client.GRID, {"number": 1, "grid-random": False, "grid-sharpness": 0.9, "grid-palette": "cold"}
        )
        (path,) = set(re.findall(r'"path": "([^"]*grid-0\.png)"', answer))
        metadata = Image.open(io.BytesIO(client.fetch(path).content)).info
        refused = client.ask(Client.GRID, {"number": 1, "grid-palette": "green"})
    (call,) = generator.calls
    assert call["settings"] == MoreSettings(num_inference_steps=2, sharpness=0.9, palette="cold")
    assert (metadata["sharpness"], metadata["rounds"], metadata["palette"]) == ("0.9", "3", "cold")
    assert "unknown palette 'green': known are warm, cold" in refused
