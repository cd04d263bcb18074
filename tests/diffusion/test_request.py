"""What a user can ask of a generator, and what is refused."""

import pytest
import torch
from PIL import Image

from common.errors import UserError
from diffusion.labels import RANDOM_CLASS
from diffusion.request import sample_generator
from tests.diffusion.random_images import equal


def test_labels_are_taken_in_turn_whatever_the_batch(generator):
    request = generator.request(5, [1, 2, 3], "pil", {})
    whole = request.batch(0, 5)[1]
    assert whole.tolist() == [1, 2, 3, 1, 2]
    assert request.batch(3, 2)[1].tolist() == [1, 2]
    assert generator.request(2, [1, 2, 3], "pil", {"first": 3}).batch(0, 2)[1].tolist() == [1, 2]


def test_random_labels_depend_on_the_seed_and_not_on_the_batch(generator):
    request = generator.request(20, [RANDOM_CLASS], "pil", {"seed": 4})
    whole = request.batch(0, 20)[1]
    assert torch.equal(request.batch(5, 3)[1], whole[5:8])
    assert len(set(whole.tolist())) > 3
    other = generator.request(20, [RANDOM_CLASS], "pil", {"seed": 5}).batch(0, 20)[1]
    assert not torch.equal(whole, other)


def test_given_and_random_labels_in_turn(generator):
    labels = generator.request(6, [3, RANDOM_CLASS, 10], "pil", {}).batch(0, 6)[1].tolist()
    assert labels[::3] == [3, 3]
    assert labels[2::3] == [10, 10]  # no class
    assert all(0 <= label < 10 for label in labels[1::3])


def test_the_seed_may_come_from_a_torch_generator(exact):
    stream = torch.Generator().manual_seed(1)
    first, second = (exact.generate(2, 1, num_inference_steps=2, generator=stream) for _ in range(2))
    assert not equal(first, second)
    again = exact.generate(2, 1, num_inference_steps=2, generator=torch.Generator().manual_seed(1))
    assert equal(first, again)


def test_every_image_may_have_a_generator_of_its_own(exact):
    own = [sample_generator(5, i) for i in range(3)]
    images = exact.generate(3, 1, num_inference_steps=2, generator=own, batch_size=2)
    assert equal(images, exact.generate(3, 1, num_inference_steps=2, seed=5))
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
        (lambda g, x: g.morph(x, x, n=1), "at least 2"),
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
        (lambda g, x: g.generate(n=2.5), "whole number"),
        (lambda g, x: g.generate(n=10**9), "at most 1000000"),
        (lambda g, x: g.morph(x, x, n=10**9), "at most 1000000"),
        (lambda g, x: g.generate(seed="a"), "seed must be a whole number"),
        (lambda g, x: g.generate(batch_size=0), "batch_size must be at least 1"),
        (lambda g, x: g.generate(1, 2.5), "number or a name"),
        (lambda g, x: g.inpaint(x, boxes=[(0, 0, 4, 4)], feather=0.5), "feather must be a whole number"),
        (lambda g, x: g.vary(x, float("nan")), "strength"),
    ],
)  # fmt: skip
def test_bad_requests_are_one_line(generator, call, message):
    with pytest.raises(UserError, match=message):
        call(generator, Image.new("L", (32, 32)))
