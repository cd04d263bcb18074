"""What a user can ask of a generator, and what is refused."""

import pytest
import torch
from PIL import Image

from common.errors import UserError
from diffusion.pipeline import ImageGenerator
from diffusion.request import sample_generator
from diffusion.settings import SamplingSettings
from tests.diffusion.random_images import equal


def test_classes_go_by_number_or_name(tiny_run):
    generator = ImageGenerator.from_pretrained(tiny_run, "cpu")
    generator.class_names = ["cat", "7", "dog"]
    assert [generator.label_of(x) for x in ("dog", "2", 2, "7")] == [2, 2, 2, 1]  # a name before a number
    for wrong in ("bird", 3, "3", -1, "-1"):
        with pytest.raises(UserError, match="this model"):
            generator.label_of(wrong)


def test_the_seed_may_come_from_a_torch_generator_or_one_a_image(exact):
    stream = torch.Generator().manual_seed(1)
    first, second = (exact.generate(2, 1, num_inference_steps=2, generator=stream) for _ in range(2))
    assert equal(
        first, exact.generate(2, 1, num_inference_steps=2, generator=torch.Generator().manual_seed(1))
    ) and not equal(first, second)
    own = exact.generate(3, 1, num_inference_steps=2, seed=5)
    assert equal(
        own,
        exact.generate(3, 1, num_inference_steps=2, generator=[sample_generator(5, i) for i in range(3)], batch_size=2),
    )
    with pytest.raises(UserError, match="3 images need"):
        exact.generate(3, 1, num_inference_steps=2, generator=[torch.Generator()])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g, x: g.inpaint(x, boxes=[(0, 0, 4, 4)], margin=-1), "margin"),
        (lambda g, x: g.inpaint(x), "give a mask or a box"),
        (lambda g, x: g.inpaint(x.resize((3, 30)), boxes=[(0, 0, 2, 2)]), "smaller than one code"),
        (lambda g, x: g.outpaint(x), "at least one pixel"),
        (lambda g, x: g.outpaint(x, right=100_000), "are sampled at once"),
        (lambda g, x: g.vary(x, 0), "strength"),
        (lambda g, x: g.vary(x, 0.5, num_inference_steps=0), "steps"),
        (lambda g, x: g.vary(x.resize((4000, 1000))), "make it smaller"),
        (lambda g, x: g.morph(x, x, n=1), "two images"),
        (lambda g, x: g.morph(x, x, n=2, num_inference_steps=-4), "steps"),
        (lambda g, x: g.morph(x, x, n=2, class_labels="nosuch"), "unknown class"),
        (lambda g, x: g.morph(x, x, n=2, generator=[torch.Generator()]), "one generator"),
        (lambda g, x: g.generate(1, []), "empty list"),
        (lambda g, x: g.generate(1, seed=-1), "seed"),
        (lambda g, x: g.generate(1, num_inference_steps=2_000_000_000), "at most"),
        (lambda g, x: g.inpaint("digit.png", x), "open the file"),
        (lambda g, x: g.morph(x, x.resize((9, 9))), "same size"),
        (lambda g, x: g.generate(height=2), "smaller than one code"),
        (lambda g, x: g.generate(height=32_000, width=32_000), "are sampled at once"),
        (lambda g, x: g.generate(height=64, large_grids="magic"), "sliding, rotary"),
        (lambda g, x: g.generate(n=0), "at least 1"),
    ],
)  # fmt: skip
def test_bad_requests_are_one_line(generator, call, message):
    with pytest.raises(UserError, match=message):
        call(generator, Image.new("L", (32, 32)))


def test_unknown_options_name_the_nearest(generator):
    with pytest.raises(
        UserError, match="unknown sampling option 'num_inference_step': the nearest one is 'num_inference_steps'"
    ):
        generator.generate(num_inference_step=3)


def test_whole_settings_equal_single_options(generator):
    settings = SamplingSettings(num_inference_steps=3, temperature=0.8, sampler="maskgit")
    single = generator.generate(2, 1, num_inference_steps=3, temperature=0.8, sampler="maskgit")
    assert equal(generator.generate(2, 1, settings=settings), single)
