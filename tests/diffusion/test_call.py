"""The generator called as diffusers' pipelines are."""

import numpy as np
import pytest
import torch

from common.errors import UserError
from diffusion.pipeline import ImageOutput
from tests.diffusion.random_images import equal, noise

FAST = {"num_inference_steps": 2}


def test_class_labels_give_one_image_each(exact):
    output = exact(class_labels=[3, "8"], generator=torch.Generator().manual_seed(1), **FAST)
    assert isinstance(output, ImageOutput)
    assert equal(output.images, exact.generate(2, [3, 8], generator=torch.Generator().manual_seed(1), **FAST))
    assert equal(output[0], output.images)


def test_images_of_one_label_are_next_to_each_other(exact):
    output = exact([3, 8], num_images_per_prompt=2, seed=1, **FAST)
    assert equal(output.images, exact.generate(4, [3, 3, 8, 8], seed=1, **FAST))
    assert equal(exact([3, 8], n=5, seed=1, **FAST).images, exact.generate(5, [3, 8], seed=1, **FAST))
    assert len(exact(num_images_per_prompt=3, **FAST).images) == 3


def test_a_tuple_where_no_dictionary_is_wanted(exact):
    images = exact(3, return_dict=False, output_type="np", **FAST)
    assert type(images) is tuple
    assert np.array_equal(images[0], exact.generate(1, 3, output_type="np", **FAST))


@pytest.mark.parametrize("labels", [None, 3])
def test_with_an_image_it_inpaints(exact, labels):
    image, mask = noise(np.random.default_rng(0), 32, 32), np.zeros((32, 32), np.uint8)
    mask[8:20, 8:20] = 255
    output = exact(labels, image=image, mask_image=mask, num_images_per_prompt=2, guidance_scale=2.0, **FAST)
    assert equal(output.images, exact.inpaint(image, mask, n=2, class_labels=labels, guidance_scale=2.0, **FAST))


@pytest.mark.parametrize(("options", "message"), [
    ({"mask_image": np.zeros((32, 32), np.uint8)}, "needs an image"),
    ({"n": 2, "num_images_per_prompt": 3}, "leave one out"),
    ({"num_images_per_prompt": 0}, "at least 1"),
    ({"n": 0}, "at least 1"),
    ({"negative_prompt": "x"}, "has no keyword 'negative_prompt'"),
    ({"class_labels": "nosuch"}, "unknown class"),
])  # fmt: skip
def test_mistakes_of_a_call(generator, options, message):
    with pytest.raises(UserError, match=message):
        generator(**options)
