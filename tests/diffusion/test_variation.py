"""Varying and morphing from Python, on a tiny model."""

import numpy as np
import pytest
import torch

from diffusion.request import Conditioning
from diffusion.settings import SamplingSettings
from images.modes import flatten_alpha, to_model_mode
from tests.diffusion.random_images import equal, noise


def test_varying_goes_from_the_reconstruction_to_a_new_image(generator):
    image = noise(np.random.default_rng(5), 32, 32)
    again = generator.decode(generator._encode_whole(image)[1])[0]
    codes = generator._encode_whole(image)[1]
    fraction = []
    for strength in (0.02, 0.3, 0.8):
        given = Conditioning(origin=codes, strength=strength)
        sampled = generator.sample_codes(64, [1], SamplingSettings(num_inference_steps=4), conditioning=given).codes
        fraction.append((sampled != codes).float().mean().item() / strength)
    assert fraction[0] > 0
    assert all(value < 1.1 for value in fraction)
    assert fraction[2] > 0.5
    little = generator.vary(image, 1e-6, num_inference_steps=4)[0]
    assert np.array_equal(little, again)
    everything = generator.vary(image, 1.0, class_labels=1, num_inference_steps=4, seed=3)
    assert equal(everything, generator.generate(1, 1, num_inference_steps=4, seed=3))


@pytest.mark.parametrize("size", [(30, 22), (64, 40), (100, 33), (9, 12)])
def test_varying_and_morphing_keep_any_size(generator, size):
    rng = np.random.default_rng(0)
    first, last = noise(rng, size[1], size[0], "RGBA"), noise(rng, size[1], size[0], "RGB")
    varied = generator.vary(first, 0.5, n=2, num_inference_steps=2)
    assert all(one.size == size and one.mode == "RGBA" for one in varied)
    assert np.array_equal(np.asarray(varied[0])[..., 3], np.asarray(first)[..., 3])
    frames = generator.morph(first, last, n=4, num_inference_steps=2)
    assert len(frames) == 4 and all(frame.size == size for frame in frames)
    ends = [generator.vary(x.convert("L"), 1e-6, num_inference_steps=2)[0] for x in (first, last)]
    assert np.array_equal(frames[-1], ends[1])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_colour_and_alpha_are_mixed_once(generator, mode):
    """vary keeps the alpha channel, so it varies the colours alone; morph gives it up, so it sees them over white."""
    translucent = noise(np.random.default_rng(2), 32, 32, mode)
    little = {"strength": 1e-6, "num_inference_steps": 1}
    varied = generator.vary(translucent, **little)[0]
    assert equal(varied.split()[:-1], generator.vary(flatten_alpha(translucent), **little)[0].split())
    assert np.array_equal(varied.getchannel("A"), translucent.getchannel("A"))
    over_white = to_model_mode(translucent, 1)
    ends = generator.morph(translucent, translucent, n=2, num_inference_steps=1)
    assert equal(ends, generator.morph(over_white, over_white, n=2, num_inference_steps=1))


def test_a_morphs_images_share_their_random_numbers(generator):
    image = noise(np.random.default_rng(1), 32, 32)
    frames = generator.morph(image, image, n=5, num_inference_steps=4, class_labels=1, generator=torch.Generator())
    assert np.array_equal(frames[1], frames[3])  # as much noise on the same image
