import time
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page's tests need gradio: pip install -e '.[app]'")

from app.choices import NO_CLASS, RANDOM, Choices
from app.jobs import grid_job, morph_job, vary_job
from app.service import PREVIEW_FRACTION, GenerationService
from app.storage import Storage
from app.uploads import DEFAULT_LIMITS, Limits
from common.errors import UserError
from tests.app.files import sample_image, written


def grid(service, number=1, label=RANDOM, seed=0, **options):
    return service.run(grid_job(service.generator, service.limits, number, Choices(label, seed, False, options)))


def test_a_job_yields_its_seed_then_previews_then_files(service):
    first, *between, last = grid(service, 2, 1, 7)
    assert (first.previews, first.images, first.seed) == ([], [], 7), "the last results leave the page at once"
    assert between and all(isinstance(update.previews[0], Image.Image) for update in between)
    assert "step 1 of 4" in between[0].status
    assert last.previews == []
    assert "2 images in" in last.status and "seed 7" in last.status
    assert [Path(path).name for path in last.images] == ["grid-7.png"]


def test_results_hold_their_settings(service, tmp_path):
    options = {"sampler": "halton", "guidance_scale": 2.0}
    *_, last = grid(service, 2, 1, 7, **options)
    settings = service.generator.settings(**options)
    assert Image.open(last.images[0]).info == {"seed": "7", "label": "long", **settings.metadata()}
    *_, last = grid(service, 1, NO_CLASS)
    assert Image.open(last.images[0]).info["label"] == "none"
    service.generator.class_names = []
    *_, last = grid(service, 1)
    assert Image.open(last.images[0]).info["label"] == ""


def test_several_results_are_numbered_and_a_morph_is_also_an_animation(service, tmp_path):
    path, limits, choices = written(tmp_path, "image.png", sample_image()), service.limits, Choices(NO_CLASS, 7)
    *_, last = service.run(vary_job(service.generator, limits, path, 0.5, 2, choices))
    assert [Path(path).name for path in last.images] == ["vary-7-1.png", "vary-7-2.png"]
    _, *between, last = service.run(morph_job(service.generator, limits, path, path, 0.5, 4, choices))
    assert [Path(path).name for path in last.images] == ["morph-7.gif", *[f"morph-7-{i}.png" for i in (1, 2, 3, 4)]]
    assert Image.open(last.images[0]).n_frames >= 1
    assert "image 1, step 1" in between[0].status


def test_the_storage_is_swept_after_a_job(generator, tmp_path):
    limits = Limits(files=3)
    service = GenerationService(generator, limits, Storage(tmp_path, limits))
    for seed in range(6):
        *_, last = grid(service, seed=seed)
        assert Path(last.images[0]).exists()
    assert len(list(tmp_path.rglob("*.png"))) == 3
    service.close()


def test_examples_are_sampled_once_for_all_visitors(service, generator):
    generator.class_names = ["a", "b", "c"]
    paths = [service.example(i) for i in range(DEFAULT_LIMITS.examples)]
    assert [service.example(i) for i in range(DEFAULT_LIMITS.examples)] == paths
    assert [call["class_labels"] for call in generator.calls] == [0, 0, 1, 1, 2, 2], "spread over the classes"
    assert [call["first"] for call in generator.calls] == [0, 1, 2, 3, 4, 5], "each another image"
    assert len(set(paths)) == len(paths)
    Path(paths[1]).unlink()  # as the storage does
    assert Path(service.example(1)).exists()


@pytest.mark.parametrize("index", [-1, 1, 6, None, "0", 0.5])
def test_an_example_whose_turn_has_not_come_is_refused(index, service):
    with pytest.raises(UserError, match="example"):
        service.example(index)


def test_previews_take_a_small_fraction_of_the_time(service, generator):
    def slow_preview(codes):
        generator.previews += 1
        time.sleep(0.02)
        return [Image.new("L", (8, 8)) for _ in codes]

    generator.preview, generator.pause = slow_preview, 0.01
    began = time.perf_counter()
    list(grid(service, num_inference_steps=100))
    took = time.perf_counter() - began
    # One at the first step, one at the end, and between them what the fraction allows: about 12, not 100. The limit
    # follows from the measured time, which is longer on a busy machine.
    assert 3 <= generator.previews <= 2 + PREVIEW_FRACTION * took / 0.02


def test_sampling_stops_when_nobody_waits(service, generator):
    generator.pause = 0.1
    updates = grid(service, num_inference_steps=200)
    next(updates), next(updates)
    updates.close()
    began = time.perf_counter()
    list(grid(service, num_inference_steps=1))
    assert time.perf_counter() - began < 10, "the next request waited for the 200 steps of the one before"


def test_closing_stops_a_running_request(generator, tmp_path):
    service = GenerationService(generator, Limits(), Storage(tmp_path, Limits()))
    generator.pause = 0.1
    updates = grid(service, num_inference_steps=200)
    next(updates), next(updates)
    began = time.perf_counter()
    service.close()
    assert time.perf_counter() - began < 10
    updates.close()
