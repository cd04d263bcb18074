"""Generating images from Python, on a tiny model whose images mean nothing."""

import copy
import doctest
import itertools

import numpy as np
import pytest
import torch

import diffusion.editing
import diffusion.pipeline
import diffusion.variation
from common.errors import UserError
from diffusion.pipeline import ImageGenerator
from diffusion.request import sample_generator
from diffusion.settings import SamplingSettings
from tests.diffusion.random_images import equal, noise


@pytest.mark.parametrize(
    "module", [diffusion.pipeline, diffusion.editing, diffusion.variation], ids=lambda module: module.__name__
)
def test_the_examples_in_the_docstrings_run(module, tiny_run, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/mnist").symlink_to(tiny_run)
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(module)
    assert found.attempted >= 4
    assert found.failed == 0


@pytest.mark.parametrize(("image_size", "downsample"), [(64, 4), (32, 8), (16, 4)])
def test_a_prior_of_another_grid_is_refused(generator, image_size, downsample):
    tokenizer = copy.copy(generator.tokenizer)
    tokenizer.image_size, tokenizer.downsample = image_size, downsample
    with pytest.raises(
        UserError, match=rf"grid of 8 x 8 codes, and the tokenizer makes .* data.image_size={image_size}"
    ):
        ImageGenerator(tokenizer, generator.prior)


@pytest.mark.parametrize("large_grids", ["sliding", "rotary"])
def test_larger_images(exact, large_grids):
    images = exact.generate(2, 1, num_inference_steps=3, height=50, width=72, large_grids=large_grids)
    assert [image.size for image in images] == [(72, 50)] * 2
    one = exact.generate(1, 1, num_inference_steps=3, height=50, width=72, large_grids=large_grids)
    assert equal(one, images[:1])
    other = "rotary" if large_grids == "sliding" else "sliding"
    assert not equal(one, exact.generate(1, 1, num_inference_steps=3, height=50, width=72, large_grids=other))


def test_the_callback_sees_every_step(generator):
    seen = []

    def watch(pipe, step, time, state):
        assert pipe is generator
        seen.append((step, time, int((state["codes"] == generator.tokenizer.codebook_size).sum())))

    generator.generate(2, 1, num_inference_steps=4, callback_on_step_end=watch)
    assert [step for step, _, _ in seen] == [0, 1, 2, 3]
    assert seen[0][2] > 0
    assert seen[-1][1:] == (0.0, 0)
    for (_, time, masked), (_, later, fewer) in itertools.pairwise(seen):
        assert time > later
        assert masked >= fewer


def test_the_callback_may_put_other_codes_in(generator):
    def all_twos(pipe, step, time, state):
        return {"codes": torch.full_like(state["codes"], 2)} if step == 1 else None

    image = generator.generate(1, 1, num_inference_steps=4, callback_on_step_end=all_twos)
    assert equal(image, generator.decode(torch.full((1, 8, 8), 2)))


@pytest.mark.parametrize(("codes", "message"), [
    (torch.zeros(1, 8, 7, dtype=torch.int64), "int64 codes"),
    (torch.zeros(1, 8, 8), "int64 codes"),
    (torch.full((1, 8, 8), 99), "codes in"),
    (torch.full((1, 8, 8), -1), "codes in"),
    (torch.full((1, 8, 8), 16), "before the last step"),  # 16 is masked
])  # fmt: skip
def test_unusable_codes_of_the_callback_are_refused(generator, codes, message):
    with pytest.raises(UserError, match=message):
        generator.generate(1, 1, num_inference_steps=2, callback_on_step_end=lambda *_: {"codes": codes})


def test_a_preview_is_grey_where_codes_are_masked(generator):
    codes = torch.full((1, 8, 8), 3)
    codes[0, 2, 5] = generator.tokenizer.codebook_size
    before, after = np.asarray(generator.decode(codes.clamp(max=3))[0]), np.asarray(generator.preview(codes)[0])
    assert (after[8:12, 20:24] == 128).all()
    # The group norm sees the tile, however far away it is.
    assert np.abs(after[24:].astype(int) - before[24:]).mean() < 5


METHODS = {
    "generate": lambda g, x, **more: g.generate(2, 1, **more),
    "inpaint": lambda g, x, **more: g.inpaint(x, n=2, class_labels=1, boxes=[(4, 4, 20, 20)], **more),
    "outpaint": lambda g, x, **more: g.outpaint(x, right=8, n=2, class_labels=1, **more),
    "vary": lambda g, x, **more: g.vary(x, 0.5, 2, 1, **more),
    "morph": lambda g, x, **more: g.morph(x, x.rotate(90), 2, class_labels=1, **more),
}
EVERY_METHOD = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@EVERY_METHOD
def test_output_types(generator, method):
    image = noise(np.random.default_rng(0), 32, 32)
    images = method(generator, image, num_inference_steps=2)
    pixels = np.stack(images)
    array = method(generator, image, num_inference_steps=2, output_type="np")
    assert array.shape == (*pixels.shape, 1)
    assert np.array_equal((array * 255).round()[..., 0], pixels)
    tensor = method(generator, image, num_inference_steps=2, output_type="pt")
    assert tensor.shape == (2, 1, *pixels.shape[1:])
    assert np.array_equal((tensor * 255).round()[:, 0].numpy(), pixels)
    assert 0 <= tensor.min() <= tensor.max() <= 1


@EVERY_METHOD
def test_every_method_refuses_unknown_names(generator, method):
    image = noise(np.random.default_rng(0), 32, 32)
    with pytest.raises(UserError, match="'num_inference_step': the nearest one is 'num_inference_steps'"):
        method(generator, image, num_inference_step=2)
    with pytest.raises(UserError, match="has no keyword 'class_label': the nearest one is 'class_labels'"):
        method(generator, image, class_label=3)
    with pytest.raises(UserError, match="pil, np, pt, got 'jpg'"):
        method(generator, image, output_type="jpg")


@EVERY_METHOD
def test_whole_settings_equal_single_options(generator, method):
    image = noise(np.random.default_rng(0), 32, 32)
    options = {"num_inference_steps": 3, "temperature": 0.8, "sampler": "maskgit", "guidance_scale": 2.0}
    whole = method(generator, image, settings=SamplingSettings(**options), seed=1)
    assert equal(whole, method(generator, image, **options, seed=1))
    mixed = method(generator, image, settings=SamplingSettings(num_inference_steps=9), seed=1, **options)
    assert equal(whole, mixed)  # single options go before the whole settings


def test_same_seed_same_images_whatever_the_batch(exact):
    options = {"num_inference_steps": 4, "guidance_scale": 2.0}
    one, many = (exact.generate(5, [1, 2], seed=3, batch_size=size, **options) for size in (2, 5))
    assert equal(one, many)
    assert not equal(one, exact.generate(5, [1, 2], seed=4, **options))


@EVERY_METHOD
@pytest.mark.parametrize("options", [
    {"num_inference_steps": 3, "sampler": "tweedie"},
    {"num_inference_steps": 3, "sampler": "predictor_corrector", "sampler_options": {"corrections": 2}},
    {"num_inference_steps": 100, "sampler": "maskgit"},  # fewer calls than steps
])  # fmt: skip
def test_progress_moves_with_every_network_call(generator, monkeypatch, method, options):
    events = []
    real = generator.prior.predictor

    def watched(*args):
        predict = real(*args)

        def counted(*inputs):
            events.append("call")
            return predict(*inputs)

        return counted

    monkeypatch.setattr(generator.prior, "predictor", watched)
    image = noise(np.random.default_rng(0), 32, 32)
    method(generator, image, progress=lambda done, total: events.append((done, total)), **options)
    reports = [event for event in events if event != "call"]
    if method is METHODS["morph"]:  # of two images, both given
        assert events == []
        return
    assert reports[0][0] == 0
    assert reports[-1][0] == reports[-1][1]
    assert len({total for _, total in reports}) == 1
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    for place, event in enumerate(events):
        if event == "call":
            assert events[place + 1] != "call"


def test_progress_of_several_batches_and_of_a_morph(generator):
    image, reports = noise(np.random.default_rng(0), 32, 32), []

    def watch(done, total):
        reports.append((done, total))

    generator.generate(5, 1, batch_size=2, num_inference_steps=2, skip_unchanged=False, progress=watch)
    assert reports[-1] == (6, 6)
    assert {total for _, total in reports} == {6}
    reports.clear()
    generator.morph(image, image, n=5, num_inference_steps=4, progress=watch)
    assert reports[-1] == (2 + 2 + 2, 6)  # 4 steps at strengths 0.375, 0.5, 0.375
    assert {total for _, total in reports} == {6}
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)


def test_skipping_calls_changes_no_code(exact):
    skipping, asking = (
        exact.sample_codes(
            6, [1, 2, 3], SamplingSettings(num_inference_steps=100, guidance_scale=2.0, skip_unchanged=skip)
        )
        for skip in (True, False)
    )
    assert torch.equal(skipping.codes, asking.codes)
    assert int(asking.network_calls.min()) == 100
    assert int(skipping.network_calls.max()) <= 64


def test_batches_are_halved_where_memory_is_too_small_and_give_the_same(exact, monkeypatch):
    whole = exact.generate(7, [1, 2], num_inference_steps=2)
    real, sizes = ImageGenerator._sample, []

    def small(self, request, begin, count, conditioning, on_call):
        sizes.append(count)
        if count > 2:
            for stream in (request.generators or [])[begin : begin + count]:
                torch.rand(3, generator=stream)  # memory runs out in the middle of a batch
            raise torch.cuda.OutOfMemoryError("no")
        return real(self, request, begin, count, conditioning, on_call)

    monkeypatch.setattr(ImageGenerator, "_sample", small)
    assert equal(whole, exact.generate(7, [1, 2], num_inference_steps=2))
    assert sizes == [7, 4, 2, 2, 2, 1]
    streams = [sample_generator(0, i) for i in range(7)]
    assert equal(whole, exact.generate(7, [1, 2], num_inference_steps=2, generator=streams))


def test_memory_too_small_for_one_sample_is_an_error(generator, monkeypatch):
    def fail(*args):
        raise torch.cuda.OutOfMemoryError("no")

    monkeypatch.setattr(ImageGenerator, "_sample", fail)
    with pytest.raises(UserError, match="does not hold one"):
        generator.generate(3, 1, num_inference_steps=2)


def test_half_precision_changes_the_network_and_moving_keeps_the_object(lively_run):
    generator = ImageGenerator.from_pretrained(lively_run, "cpu", torch.bfloat16)
    seen = []
    hook = generator.prior.network.blocks[0].mlp[0].register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    generator.generate(1, 1, num_inference_steps=2)
    assert set(seen) == {torch.bfloat16}
    assert generator.to("cpu", "float32") is generator
    seen.clear()
    generator.generate(1, 1, num_inference_steps=2)
    hook.remove()
    assert set(seen) == {torch.float32}
    with pytest.raises(UserError, match="float32, bfloat16 or float16"):
        generator.to(dtype="float64")
