"""Generating images from Python, on a tiny model whose images mean nothing."""

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
from tests.diffusion.random_images import equal


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


@pytest.mark.parametrize("large_grids", ["sliding", "rotary"])
def test_larger_images(exact, large_grids):
    images = exact.generate(2, 1, num_inference_steps=3, height=50, width=72, large_grids=large_grids)
    assert [image.size for image in images] == [(72, 50)] * 2
    one = exact.generate(1, 1, num_inference_steps=3, height=50, width=72, large_grids=large_grids)
    assert equal(one, images[:1])
    other = "rotary" if large_grids == "sliding" else "sliding"
    assert not equal(one, exact.generate(1, 1, num_inference_steps=3, height=50, width=72, large_grids=other))


def test_the_callback_sees_every_step_and_may_put_other_codes_in(generator):
    seen = []

    def watch(pipe, step, time, state):
        assert pipe is generator
        seen.append((step, time, int((state["codes"] == generator.tokenizer.codebook_size).sum())))

    generator.generate(2, 1, num_inference_steps=4, callback_on_step_end=watch)
    assert [step for step, _, _ in seen] == [0, 1, 2, 3] and seen[-1][1:] == (0.0, 0)
    assert all(a[1] > b[1] and a[2] >= b[2] for a, b in itertools.pairwise(seen)) and seen[0][2] > 0

    def all_twos(pipe, step, time, state):
        return {"codes": torch.full_like(state["codes"], 2)} if step == 1 else None

    for wrong in (torch.zeros(1, 8, 7, dtype=torch.int64), torch.zeros(1, 8, 8), torch.full((1, 8, 8), 99)):
        with pytest.raises(UserError, match="callback_on_step_end"):
            generator.generate(1, 1, num_inference_steps=4, callback_on_step_end=lambda *a, w=wrong: {"codes": w})
    still_masked = torch.full((1, 8, 8), generator.tokenizer.codebook_size)
    with pytest.raises(UserError, match="before the last step"):
        generator.generate(1, 1, num_inference_steps=2, callback_on_step_end=lambda *a: {"codes": still_masked})
    image = generator.generate(1, 1, num_inference_steps=4, callback_on_step_end=all_twos)
    assert equal(image, generator.decode(torch.full((1, 8, 8), 2)))


def test_a_preview_is_grey_where_codes_are_masked(generator):
    codes = torch.full((1, 8, 8), 3)
    codes[0, 2, 5] = generator.tokenizer.codebook_size
    before, after = np.asarray(generator.decode(codes.clamp(max=3))[0]), np.asarray(generator.preview(codes)[0])
    assert (after[8:12, 20:24] == 128).all()
    assert (
        np.abs(after[24:].astype(int) - before[24:]).mean() < 5
    )  # the group norm sees the tile, however far away it is


def test_output_types(generator):
    images = generator.generate(2, 1, num_inference_steps=2)
    array, tensor = (generator.generate(2, 1, num_inference_steps=2, output_type=kind) for kind in ("np", "pt"))
    assert array.shape == (2, 32, 32, 1) and tensor.shape == (2, 1, 32, 32)
    assert np.array_equal((array * 255).round()[..., 0], np.stack(images)) and 0 <= tensor.min() <= tensor.max() <= 1
    with pytest.raises(UserError, match="pil, np, pt"):
        generator.generate(1, output_type="jpg")


def test_batches_are_halved_where_memory_is_too_small_and_give_the_same(exact, monkeypatch):
    whole = exact.generate(7, [1, 2], num_inference_steps=2)
    real, sizes = ImageGenerator._sample, []

    def small(self, request, begin, count, conditioning):
        sizes.append(count)
        if count > 2:
            for stream in (request.generators or [])[begin : begin + count]:
                torch.rand(3, generator=stream)  # memory runs out in the middle of a batch
            raise torch.cuda.OutOfMemoryError("no")
        return real(self, request, begin, count, conditioning)

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
    assert set(seen) == {torch.bfloat16} and generator.to("cpu", "float32") is generator
    seen.clear()
    generator.generate(1, 1, num_inference_steps=2)
    hook.remove()
    assert set(seen) == {torch.float32}
    with pytest.raises(UserError, match="float32, bfloat16 or float16"):
        generator.to(dtype="float64")
