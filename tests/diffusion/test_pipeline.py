"""What a person does with a trained model, from Python; on tiny models, whose pictures mean nothing but must obey."""

import doctest
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

import diffusion.pipeline
from common.errors import UserError
from diffusion.pipeline import ImageGenerator
from diffusion.request import Conditioning, sample_generator
from diffusion.settings import SamplingSettings
from images.convert import as_pil
from images.region import crop_region, region_around


@pytest.fixture(scope="module")
def generator(lively_run):
    return ImageGenerator.from_pretrained(lively_run, "cpu")


@pytest.fixture
def exact(lively_run, in_float64):
    """The same in float64: its images are the same in batches of any size."""
    return ImageGenerator.from_pretrained(lively_run, "cpu")


def noise(rng, height, width, mode="L"):
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width), np.uint16))
    return Image.fromarray(rng.integers(0, 256, (height, width, 4), np.uint8), "RGBA").convert(mode)


def equal(first, second):
    return len(first) == len(second) and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_examples_in_the_docstrings_run(tiny_run, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/mnist").symlink_to(tiny_run)
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(diffusion.pipeline)
    assert found.attempted >= 10 and found.failed == 0


def random_repaint(rng):
    """A picture of any mode and size, the same with other content under the mask, and the mask."""
    mode = ["L", "RGB", "RGBA", "LA", "I;16"][rng.integers(5)]
    height, width = (int(side) for side in rng.integers(8, 300 if rng.random() < 0.02 else 70, 2))
    mask = np.zeros((height, width), bool)
    for _ in range(rng.integers(1, 4)):
        top, left = rng.integers(0, height), rng.integers(0, width)
        mask[top : top + rng.integers(1, height + 1), left : left + rng.integers(1, width + 1)] = True
    if rng.random() < 0.2:
        mask = ~mask if not mask.all() else mask
    if rng.random() < 0.2:
        mask |= rng.random((height, width)) < 0.02
    image = noise(rng, height, width, mode)
    pixels, other = np.array(image), np.array(noise(rng, height, width, mode))
    if mode.endswith("A"):
        other[..., -1] = pixels[..., -1]  # alpha is kept, so it is no hidden content
    return image, Image.fromarray(np.where(mask.reshape(mask.shape + (1,) * (pixels.ndim - 2)), other, pixels)), mask


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
            generator.inpaint(x, mask, num_inference_steps=1, seed=index, skip=True, **more)[0] for x in (image, other)
        )
        before, after = np.asarray(image), np.asarray(painted)
        assert painted.mode == image.mode and painted.size == image.size
        changed += not np.array_equal(before[~mask], after[~mask])
        knew += not np.array_equal(after, np.asarray(again))
    assert (changed, knew) == (0, 0)


def test_every_code_under_the_mask_is_drawn(generator, monkeypatch):
    real, seen = ImageGenerator.generate_codes, []

    def watched(self, n, class_labels, settings, seed, first, given, *rest):
        seen.append(given)
        return real(self, n, class_labels, settings, seed, first, given, *rest)

    monkeypatch.setattr(ImageGenerator, "generate_codes", watched)
    for index in range(100):
        image, _, mask = random_repaint(np.random.default_rng(index))
        generator.inpaint(image, mask, num_inference_steps=1, margin=0)
        region = region_around(mask, 32, 4)
        hidden = crop_region(image, mask, region, 1)[1][0]
        covered = seen[-1].hidden[0].repeat_interleave(4, 0).repeat_interleave(4, 1)
        assert hidden.any() and bool(covered[hidden].all())
    first, second = generator.inpaint(noise(np.random.default_rng(0), 32, 32), boxes=[(4, 4, 28, 28)], n=2)
    assert not np.array_equal(first, second)


def test_hidden_codes_are_drawn_and_all_others_are_the_pictures_own(generator):
    picture = noise(np.random.default_rng(0), 32, 32)
    codes = generator.tokenizer.encode(torch.from_numpy(np.array(picture))[None, None].float() / 127.5 - 1)
    hidden = torch.zeros_like(codes, dtype=torch.bool)
    hidden[:, 2:5, 1:7] = True
    drawn = torch.cat(
        [
            generator.generate_codes(1, [1], SamplingSettings(4), s, given=Conditioning(None, codes, hidden)).codes
            for s in range(8)
        ]
    )
    assert bool((drawn == codes)[:, ~hidden[0]].all())
    assert (drawn == codes)[:, hidden[0]].float().mean() < 0.6


def test_a_large_picture_is_worked_on_at_its_own_resolution(generator):
    picture = noise(np.random.default_rng(0), 90, 120)
    mask = np.zeros((90, 120), bool)
    mask[20:70, 10:100] = True  # larger than the model: sliding windows
    painted = np.asarray(generator.inpaint(picture, mask, num_inference_steps=2)[0])
    assert np.array_equal(painted[~mask], np.asarray(picture)[~mask])
    fitted = np.asarray(generator.inpaint(picture, mask, num_inference_steps=2, fit=True)[0])
    assert not np.array_equal(painted, fitted)


def test_transparent_pixels_are_repainted_and_become_opaque(generator):
    picture = noise(np.random.default_rng(2), 32, 32, "RGBA")
    picture.putalpha(255)
    picture.paste((9, 9, 9, 0), (8, 8, 20, 20))
    painted = generator.inpaint(picture, num_inference_steps=2)[0]
    assert painted.mode == "RGBA" and np.asarray(painted)[..., 3].min() == 255
    kept = np.asarray(picture)[..., 3] == 255
    assert np.array_equal(np.asarray(painted)[kept], np.asarray(picture)[kept])


@pytest.mark.parametrize("sides", [(0, 0, 13, 0), (5, 7, 0, 30), (0, 40, 0, 0)])
def test_extending_keeps_the_picture(generator, sides):
    picture = noise(np.random.default_rng(1), 37, 41)
    left, top, right, bottom = sides
    first, second = generator.outpaint(picture, *sides, n=2, num_inference_steps=2)
    assert first.size == (41 + left + right, 37 + top + bottom)
    assert np.array_equal(np.asarray(first)[top : top + 37, left : left + 41], picture)
    assert not np.array_equal(first, second)


def test_varying_goes_from_the_reconstruction_to_a_new_picture(generator):
    picture = noise(np.random.default_rng(5), 32, 32)
    again = generator.decode(generator._encode_whole(picture)[1])[0]
    codes = generator._encode_whole(picture)[1]
    share = []
    for strength in (0.02, 0.3, 0.8):
        given = Conditioning(origin=codes, strength=strength)
        drawn = generator.generate_codes(64, [1], SamplingSettings(4), given=given).codes
        share.append((drawn != codes).float().mean().item() / strength)
    assert share[0] > 0 and all(value < 1.1 for value in share) and share[2] > 0.5
    little = generator.vary(picture, 1e-6, num_inference_steps=4)[0]
    assert np.array_equal(little, again)
    everything = generator.vary(picture, 1.0, class_labels=1, num_inference_steps=4, seed=3)
    assert equal(everything, generator.generate(1, 1, 4, seed=3))


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


def test_a_morphs_pictures_share_their_random_numbers(generator):
    picture = noise(np.random.default_rng(1), 32, 32)
    frames = generator.morph(picture, picture, n=5, num_inference_steps=4, class_labels=1, generator=torch.Generator())
    assert np.array_equal(frames[1], frames[3])  # as much noise on the same picture


def test_a_large_picture_is_extended_in_the_part_around_what_is_new(generator):
    picture = noise(np.random.default_rng(0), 600, 640)
    wider = generator.outpaint(picture, right=20, num_inference_steps=1)[0]
    assert wider.size == (660, 600) and np.array_equal(np.asarray(wider)[:, :640], picture)
    assert generator.inpaint(picture, boxes=[(0, 0, 9, 9)], margin=10**20, num_inference_steps=1)[0].size == (640, 600)


@pytest.mark.parametrize("large_grids", ["sliding", "rotary"])
def test_larger_pictures(exact, large_grids):
    pictures = exact.generate(2, 1, 3, height=50, width=72, large_grids=large_grids)
    assert [picture.size for picture in pictures] == [(72, 50)] * 2
    one = exact.generate(1, 1, 3, height=50, width=72, large_grids=large_grids)
    assert equal(one, pictures[:1])
    other = "rotary" if large_grids == "sliding" else "sliding"
    assert not equal(one, exact.generate(1, 1, 3, height=50, width=72, large_grids=other))


def test_classes_go_by_number_or_name(tiny_run):
    generator = ImageGenerator.from_pretrained(tiny_run, "cpu")
    generator.class_names = ["cat", "7", "dog"]
    assert [generator.label_of(x) for x in ("dog", "2", 2, "7")] == [2, 2, 2, 1]  # a name before a number
    for wrong in ("bird", 3, "3", -1, "-1"):
        with pytest.raises(UserError, match="this model"):
            generator.label_of(wrong)


def test_the_seed_may_come_from_a_torch_generator_or_one_a_picture(exact):
    stream = torch.Generator().manual_seed(1)
    first, second = (exact.generate(2, 1, 2, generator=stream) for _ in range(2))
    assert equal(first, exact.generate(2, 1, 2, generator=torch.Generator().manual_seed(1))) and not equal(
        first, second
    )
    own = exact.generate(3, 1, 2, seed=5)
    assert equal(own, exact.generate(3, 1, 2, generator=[sample_generator(5, i) for i in range(3)], batch_size=2))
    with pytest.raises(UserError, match="3 pictures need"):
        exact.generate(3, 1, 2, generator=[torch.Generator()])


def test_the_callback_sees_every_step_and_may_put_other_codes_in(generator):
    seen = []

    def watch(pipe, step, time, state):
        assert pipe is generator
        seen.append((step, time, int((state["codes"] == generator.tokenizer.codebook_size).sum())))

    generator.generate(2, 1, 4, callback_on_step_end=watch)
    assert [step for step, _, _ in seen] == [0, 1, 2, 3] and seen[-1][1:] == (0.0, 0)
    assert all(a[1] > b[1] and a[2] >= b[2] for a, b in itertools.pairwise(seen)) and seen[0][2] > 0

    def all_twos(pipe, step, time, state):
        return {"codes": torch.full_like(state["codes"], 2)} if step == 1 else None

    for wrong in (torch.zeros(1, 8, 7, dtype=torch.int64), torch.zeros(1, 8, 8), torch.full((1, 8, 8), 99)):
        with pytest.raises(UserError, match="callback_on_step_end"):
            generator.generate(1, 1, 4, callback_on_step_end=lambda *a, w=wrong: {"codes": w})
    still_masked = torch.full((1, 8, 8), generator.tokenizer.codebook_size)
    with pytest.raises(UserError, match="before the last step"):
        generator.generate(1, 1, 2, callback_on_step_end=lambda *a: {"codes": still_masked})
    picture = generator.generate(1, 1, 4, callback_on_step_end=all_twos)
    assert equal(picture, generator.decode(torch.full((1, 8, 8), 2)))


def test_sub_codes_are_masked_together_and_come_back(generator, monkeypatch):
    monkeypatch.setattr(generator, "groups", 2)
    monkeypatch.setattr(generator, "vocab_size", 4)
    codes = torch.tensor([[[0, 5], [15, 16]]])
    digits = generator._split(codes)
    assert digits.tolist() == [[[[0, 0], [1, 1]], [[3, 3], [4, 4]]]] and torch.equal(generator._merge(digits), codes)
    digits[0, 0, 1, 1] = 4
    assert generator._merge(digits)[0, 0, 1] == 16


def test_a_preview_is_grey_where_codes_are_masked(generator):
    codes = torch.full((1, 8, 8), 3)
    codes[0, 2, 5] = generator.tokenizer.codebook_size
    before, after = np.asarray(generator.decode(codes.clamp(max=3))[0]), np.asarray(generator.preview(codes)[0])
    assert (after[8:12, 20:24] == 128).all()
    assert (
        np.abs(after[24:].astype(int) - before[24:]).mean() < 5
    )  # the group norm sees the tile, however far away it is


def test_output_types(generator):
    pictures = generator.generate(2, 1, 2)
    array, tensor = (generator.generate(2, 1, 2, output_type=kind) for kind in ("np", "pt"))
    assert array.shape == (2, 32, 32, 1) and tensor.shape == (2, 1, 32, 32)
    assert np.array_equal((array * 255).round()[..., 0], np.stack(pictures)) and 0 <= tensor.min() <= tensor.max() <= 1
    with pytest.raises(UserError, match="pil, np, pt"):
        generator.generate(1, output_type="jpg")


def test_pictures_come_as_arrays_and_tensors_too():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    colour = np.stack([grey, grey + 1, grey + 2], -1)
    for given in (
        colour, colour / 255, torch.from_numpy(colour).permute(2, 0, 1), torch.from_numpy(colour).permute(2, 0, 1)[None] / 255
    ):  # fmt: skip
        assert np.array_equal(np.asarray(as_pil(given)), colour)
    assert np.array_equal(np.asarray(as_pil(grey)), grey) and np.asarray(as_pil(grey > 3)).max() == 255
    for wrong in (
        np.zeros((2, 2, 5), np.uint8),
        np.zeros(4),
        np.full((2, 2), np.nan),
        np.zeros((0, 3), np.uint8),
        grey.astype(int),
    ):
        with pytest.raises(UserError, match="an image"):
            as_pil(wrong)


def test_batches_are_halved_where_memory_is_too_small_and_give_the_same(exact, monkeypatch):
    whole = exact.generate(7, [1, 2], 2)
    real, sizes = ImageGenerator.generate_codes, []

    def small(self, n, *args, **kwargs):
        sizes.append(n)
        if n > 2:
            for stream in args[5] or []:
                torch.rand(3, generator=stream)  # as a draw that got some way
            raise torch.cuda.OutOfMemoryError("no")
        return real(self, n, *args, **kwargs)

    monkeypatch.setattr(ImageGenerator, "generate_codes", small)
    assert equal(whole, exact.generate(7, [1, 2], 2)) and sizes == [7, 4, 2, 2, 3, 2, 1]
    streams = [sample_generator(0, i) for i in range(7)]
    assert equal(whole, exact.generate(7, [1, 2], 2, generator=streams))
    monkeypatch.setattr(
        ImageGenerator, "generate_codes", lambda *a, **k: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("no"))
    )
    with pytest.raises(UserError, match="does not hold one"):
        exact.generate(3, 1, 2)


def test_half_precision_changes_the_network_and_moving_keeps_the_object(lively_run):
    generator = ImageGenerator.from_pretrained(lively_run, "cpu", torch.bfloat16)
    seen = []
    hook = generator.prior.blocks[0].mlp[0].register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    generator.generate(1, 1, 2)
    assert set(seen) == {torch.bfloat16} and generator.to("cpu", "float32") is generator
    seen.clear()
    generator.generate(1, 1, 2)
    hook.remove()
    assert set(seen) == {torch.float32}
    with pytest.raises(UserError, match="float32, bfloat16 or float16"):
        generator.to(dtype="float64")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda g, x: g.inpaint(x, boxes=[(0, 0, 4, 4)], margin=-1), "margin"),
        (lambda g, x: g.inpaint(x), "give a mask or a box"),
        (lambda g, x: g.inpaint(x.resize((3, 30)), boxes=[(0, 0, 2, 2)]), "smaller than one code"),
        (lambda g, x: g.outpaint(x), "at least one pixel"),
        (lambda g, x: g.outpaint(x, right=100_000), "are drawn at once"),
        (lambda g, x: g.vary(x, 0), "strength"),
        (lambda g, x: g.vary(x, 0.5, num_inference_steps=0), "steps"),
        (lambda g, x: g.vary(x.resize((4000, 1000))), "make it smaller"),
        (lambda g, x: g.morph(x, x, n=1), "two pictures"),
        (lambda g, x: g.morph(x, x, n=2, num_inference_steps=-4), "steps"),
        (lambda g, x: g.morph(x, x, n=2, class_labels="nosuch"), "unknown class"),
        (lambda g, x: g.morph(x, x, n=2, generator=[torch.Generator()]), "one generator"),
        (lambda g, x: g.generate(1, []), "empty list"),
        (lambda g, x: g.generate(1, seed=-1), "seed"),
        (lambda g, x: g.generate(1, num_inference_steps=2_000_000_000), "at most"),
        (lambda g, x: g.inpaint("digit.png", x), "open the file"),
        (lambda g, x: g.morph(x, x.resize((9, 9))), "same size"),
        (lambda g, x: g.generate(height=2), "smaller than one code"),
        (lambda g, x: g.generate(height=32_000, width=32_000), "are drawn at once"),
        (lambda g, x: g.generate(height=64, large_grids="magic"), "sliding, rotary"),
        (lambda g, x: g.generate(n=0), "at least 1"),
    ],
)  # fmt: skip
def test_mistakes_are_said_in_one_line(generator, call, said):
    with pytest.raises(UserError, match=said):
        call(generator, Image.new("L", (32, 32)))
