"""Inpainting and outpainting from Python, on a tiny model."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.editing import mask_to_codes
from diffusion.pipeline import ImageGenerator
from diffusion.request import Conditioning
from diffusion.settings import SamplingSettings
from images.io import read_image
from images.modes import writable_mode
from images.region import crop_region, region_around
from tests.diffusion.random_images import noise, random_repaint


def test_codes_with_a_hidden_pixel_and_the_codes_in_the_margin_are_repainted():
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[0, 11, 12] = True  # in code (2, 3)
    assert mask_to_codes(mask, 4, 0).nonzero().tolist() == [[0, 2, 3]]
    assert mask_to_codes(mask, 4, 1).nonzero().tolist() == [[0, y, x] for y in (1, 2, 3) for x in (2, 3, 4)]
    assert int(mask_to_codes(mask, 4, 2).sum()) == 25


def test_of_1000_repaints_none_changes_a_kept_pixel_or_knows_a_hidden_one(generator):
    changed = knew = 0
    for index in range(1000):
        rng = np.random.default_rng(index)
        image, other, mask = random_repaint(rng)
        more = {
            "margin": int(rng.integers(0, 3)),
            "feather": int(rng.integers(0, 2) * 5),
            "fit": bool(rng.random() < 0.2),
        }
        painted, again = (
            generator.inpaint(x, mask, num_inference_steps=1, seed=index, **more)[0] for x in (image, other)
        )
        before, after = np.asarray(image), np.asarray(painted)
        assert painted.mode == image.mode and painted.size == image.size
        changed += not np.array_equal(before[~mask], after[~mask])
        knew += not np.array_equal(after, np.asarray(again))
    assert (changed, knew) == (0, 0)


def test_every_code_under_the_mask_is_sampled(generator, monkeypatch):
    real, seen = ImageGenerator.sample_batches, []

    def watched(self, request, conditioning, *rest):
        seen.append(conditioning)
        return real(self, request, conditioning, *rest)

    monkeypatch.setattr(ImageGenerator, "sample_batches", watched)
    for index in range(100):
        image, _, mask = random_repaint(np.random.default_rng(index))
        generator.inpaint(image, mask, num_inference_steps=1, margin=0)
        region = region_around(mask, 32, 4)
        hidden = crop_region(image, mask, region, 1)[1][0]
        covered = seen[-1].hidden[0].repeat_interleave(4, 0).repeat_interleave(4, 1)
        assert hidden.any()
        assert bool(covered[hidden].all()), index


def test_variants_differ(generator):
    first, second = generator.inpaint(noise(np.random.default_rng(0), 32, 32), boxes=[(4, 4, 28, 28)], n=2)
    assert not np.array_equal(first, second)


def test_hidden_codes_are_sampled_and_all_others_are_the_images_own(generator):
    image = noise(np.random.default_rng(0), 32, 32)
    codes = generator.tokenizer.encode(torch.from_numpy(np.array(image))[None, None].float() / 127.5 - 1)
    hidden = torch.zeros_like(codes, dtype=torch.bool)
    hidden[:, 2:5, 1:7] = True
    settings, conditioning = SamplingSettings(num_inference_steps=4), Conditioning(None, codes, hidden)
    sampled = torch.cat(
        [generator.sample_codes(1, [1], settings, seed, conditioning=conditioning).codes for seed in range(8)]
    )
    assert bool((sampled == codes)[:, ~hidden[0]].all())
    assert (sampled == codes)[:, hidden[0]].float().mean() < 0.6


def test_a_large_image_is_worked_on_at_its_own_resolution(generator):
    image = noise(np.random.default_rng(0), 90, 120)
    mask = np.zeros((90, 120), bool)
    mask[20:70, 10:100] = True  # larger than the model: sliding windows
    painted = np.asarray(generator.inpaint(image, mask, num_inference_steps=2)[0])
    assert np.array_equal(painted[~mask], np.asarray(image)[~mask])
    fitted = np.asarray(generator.inpaint(image, mask, num_inference_steps=2, fit=True)[0])
    assert not np.array_equal(painted, fitted)


def test_transparent_pixels_are_repainted_and_become_opaque(generator):
    image = noise(np.random.default_rng(2), 32, 32, "RGBA")
    image.putalpha(255)
    image.paste((9, 9, 9, 0), (8, 8, 20, 20))
    painted = generator.inpaint(image, num_inference_steps=2)[0]
    assert painted.mode == "RGBA" and np.asarray(painted)[..., 3].min() == 255
    kept = np.asarray(image)[..., 3] == 255
    assert np.array_equal(np.asarray(painted)[kept], np.asarray(image)[kept])


def with_hole(mode, path):
    """An image read from a file, fully transparent in the box (8, 8, 20, 20)."""
    pixels = np.random.default_rng(3).integers(1, 255, (32, 32, 4), np.uint8)
    if mode in ("RGBA", "LA"):
        pixels[..., 3] = 255
        pixels[8:20, 8:20, 3] = 0
        Image.fromarray(pixels, "RGBA").convert(mode).save(path)
    elif mode == "I;16":
        grey = pixels[..., 0].astype(np.uint16) * 257
        grey[8:20, 8:20] = 0
        Image.fromarray(grey).save(path, transparency=0)
    else:
        pixels[8:20, 8:20] = 0
        image = Image.fromarray(pixels[..., :3]).convert(mode)
        image.save(path, transparency=image.getpixel((10, 10)))
    return read_image(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGB", "L", "P", "I;16"])
@pytest.mark.parametrize("kind", ["box", "mask"])
def test_repainted_pixels_are_opaque_and_all_others_keep_their_alpha(generator, tmp_path, mode, kind):
    image, box = with_hole(mode, tmp_path / "a.png"), (4, 10, 12, 14)
    mask = np.zeros((32, 32), bool)
    mask[10:14, 4:12] = True
    given = {"boxes": [box]} if kind == "box" else {"mask_image": mask}
    painted = generator.inpaint(image, num_inference_steps=1, **given)[0]
    before, after = (np.asarray(writable_mode(one).getchannel("A")) for one in (image, painted))
    assert before[mask].min() == 0 and after[mask].min() == 255
    assert np.array_equal(before[~mask], after[~mask])
    wider = np.asarray(generator.outpaint(image, right=8, num_inference_steps=1)[0].getchannel("A"))
    assert wider[:, 32:].min() == 255 and np.array_equal(wider[:, :32], before)


def test_a_mask_that_may_be_meant_otherwise_is_logged(generator, caplog):
    mask = np.full((32, 32, 4), 255, np.uint8)
    mask[8:20, 8:20, 3] = 0
    generator.inpaint(noise(np.random.default_rng(0), 32, 32), mask, num_inference_steps=1)
    assert "the mask is white or transparent" in caplog.text


@pytest.mark.parametrize("sides", [(0, 0, 13, 0), (5, 7, 0, 30), (0, 40, 0, 0)])
def test_extending_keeps_the_image(generator, sides):
    image = noise(np.random.default_rng(1), 37, 41)
    left, top, right, bottom = sides
    first, second = generator.outpaint(image, *sides, n=2, num_inference_steps=2)
    assert first.size == (41 + left + right, 37 + top + bottom)
    assert np.array_equal(np.asarray(first)[top : top + 37, left : left + 41], image)
    assert not np.array_equal(first, second)


def test_a_large_image_is_extended_in_the_part_around_what_is_new(generator):
    image = noise(np.random.default_rng(0), 600, 640)
    wider = generator.outpaint(image, right=20, num_inference_steps=1)[0]
    assert wider.size == (660, 600) and np.array_equal(np.asarray(wider)[:, :640], image)
    assert generator.inpaint(image, boxes=[(0, 0, 9, 9)], margin=10**20, num_inference_steps=1)[0].size == (640, 600)


@pytest.mark.parametrize(("options", "defaults", "sampler"), [
    ({}, {}, "predictor_corrector"),
    ({"num_inference_steps": 4}, {}, "predictor_corrector"),
    ({"sampler": "tweedie"}, {}, "tweedie"),
    ({"settings": SamplingSettings()}, {}, "tweedie"),
    ({}, {"sampler": "euler"}, "euler"),
])  # fmt: skip
def test_the_sampler_of_inpainting_on_the_uniform_graph(uniform_run, options, defaults, sampler):
    model = ImageGenerator.from_pretrained(uniform_run, "cpu")
    model.defaults = model.defaults.updated(defaults)
    given = dict(options)
    assert model.inpainting_settings(given.pop("settings", None), **given).sampler == sampler


def test_inpainting_takes_its_own_default_and_other_graphs_the_models(uniform_run, generator, monkeypatch):
    model, seen = ImageGenerator.from_pretrained(uniform_run, "cpu"), []
    real = ImageGenerator.sample_batches

    def watched(self, request, *rest):
        seen.append(request.settings.sampler)
        return real(self, request, *rest)

    monkeypatch.setattr(ImageGenerator, "sample_batches", watched)
    image = noise(np.random.default_rng(0), 32, 32)
    for one in (model, generator):
        one.inpaint(image, boxes=[(4, 4, 9, 9)], num_inference_steps=2)
        one.outpaint(image, right=4, num_inference_steps=2)
        one.vary(image, num_inference_steps=2)
    assert seen == ["predictor_corrector"] * 2 + ["tweedie"] * 4
