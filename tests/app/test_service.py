import time
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page's tests need gradio: pip install -e '.[app]'")

from app.service import IN_TURN, PREVIEW_FRACTION, RANDOM, GenerationService
from app.uploads import Limits, data_url, mask_layer
from common.errors import UserError
from tests.app.fake_generator import FakeGenerator
from tests.app.files import ODD, box_mask, changed_inside, same_outside, sample_image, written

CANVAS = data_url(mask_layer(box_mask((64, 64), (0, 0, 9, 9))))


def test_variants_differ_only_inside_the_mask(tmp_path, service):
    image, mask = sample_image(), box_mask((64, 64), (10, 20, 30, 40))
    path, canvas = written(tmp_path, "image.png", image), data_url(mask_layer(mask))
    options = {"sampler": "halton", "num_inference_steps": 5, "guidance_scale": 2.0}
    updates = list(service.repaint(path, None, canvas, 3, True, 1, 7, options))
    assert updates[0].images == [] and updates[0].codes == "", "the last results leave the page at once"
    assert any(isinstance(update.codes, Image.Image) for update in updates[1:-1])
    assert [Path(path).name for path in updates[-1].images] == [f"repaint-7-{i}.png" for i in (1, 2, 3)]
    results = [Image.open(path) for path in updates[-1].images]
    for result in results:
        assert same_outside(image, result, mask)
        assert changed_inside(image, result, mask) == 1
    assert len({result.tobytes() for result in results}) == 3
    settings = service.generator.settings(**options)
    assert service.generator.calls == [{"class_labels": 1, "fit": True, "seed": 7, "settings": settings}]


def test_results_hold_their_settings(service):
    *_, last = service.grid(2, 1, 7, {"sampler": "halton", "guidance_scale": 2.0})
    settings = service.generator.settings(sampler="halton", guidance_scale=2.0)
    assert Image.open(last.images[0]).info == {"seed": "7", "label": "long", **settings.metadata()}


@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_repainted_at_their_size(name, tmp_path, service):
    path = written(tmp_path, name, ODD[name])
    size = Image.open(path).size
    canvas = data_url(mask_layer(box_mask(size, (8, 8, 40, 40))))
    *_, last = service.repaint(path, None, canvas, 1, True, RANDOM, 0, {})
    assert Image.open(last.images[0]).size == size


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"image_path": None}, "no image"), ({"canvas": ""}, "nothing is painted"),
        *[({"variants": value}, "variants") for value in (9, 0, 1.5, None, "2")],
        *[({"label": value}, "label") for value in (2, -3, None, "long")],
        *[({"seed": value}, "seed") for value in (-1, 0.5, float("inf"), float("nan"), None, 2**32)],
        *[({"options": {"num_inference_steps": value}}, "steps") for value in (257, 0, 1e308, "4", None)],
        *[({"options": {"guidance_scale": value}}, "guidance") for value in (None, -1, float("nan"))],
        ({"options": {"unknown": 1}}, "unknown sampling option"),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(changed, words, tmp_path, service):
    values = {
        "image_path": written(tmp_path, "image.png", sample_image()), "mask_path": None, "canvas": CANVAS,
        "variants": 1, "fit": True, "label": RANDOM, "seed": 0, "options": {},
    }  # fmt: skip
    with pytest.raises(UserError, match=words):
        list(service.repaint(**values | changed))
    assert not service.generator.calls


def test_large_images_get_few_variants(tmp_path, generator):
    service = GenerationService(generator, Limits(all_pixels=2 * 64 * 64), tmp_path)
    path = written(tmp_path, "image.png", sample_image())
    *_, last = service.repaint(path, None, CANVAS, 2, True, RANDOM, 0, {})
    assert len(last.images) == 2
    with pytest.raises(UserError, match="at most 2 variants"):
        list(service.repaint(path, None, CANVAS, 3, True, RANDOM, 0, {}))
    service.close()


def test_grid_labels_in_turn_make_columns(service):
    *_, last = service.grid(6, IN_TURN, 5, {})
    assert Image.open(last.images[0]).size == (2 * 34 - 2, 3 * 34 - 2)
    assert last.images[0].endswith("grid-5.png")
    *_, last = service.grid(9, RANDOM, 5, {})
    assert Image.open(last.images[0]).size == (3 * 34 - 2, 3 * 34 - 2)
    assert [call["class_labels"] for call in service.generator.calls] == [[0, 1], None]


def test_a_model_without_classes_gets_no_label(tmp_path):
    service = GenerationService(FakeGenerator(classes=()), Limits(), tmp_path)
    *_, last = service.grid(2, RANDOM, 0, {})
    assert service.generator.calls[0]["class_labels"] is None
    assert Image.open(last.images[0]).info["label"] == ""
    service.close()


def test_previews_take_a_small_fraction_of_the_time(service, generator):
    def slow_preview(codes):
        generator.previews += 1
        time.sleep(0.02)
        return [Image.new("L", (8, 8)) for _ in codes]

    generator.preview, generator.pause = slow_preview, 0.01
    began = time.perf_counter()
    list(service.grid(1, RANDOM, 0, {"num_inference_steps": 100}))
    took = time.perf_counter() - began
    # One at the first step, one at the end, and between them what the fraction allows: about 12, not 100. The limit
    # follows from the measured time, which is longer on a busy machine.
    assert 3 <= generator.previews <= 2 + PREVIEW_FRACTION * took / 0.02


def test_sampling_stops_when_nobody_waits(service, generator):
    generator.pause = 0.1
    updates = service.grid(1, RANDOM, 0, {"num_inference_steps": 200})
    next(updates), next(updates)
    updates.close()
    began = time.perf_counter()
    list(service.grid(1, RANDOM, 0, {"num_inference_steps": 1}))
    assert time.perf_counter() - began < 10, "the next request waited for the 200 steps of the one before"


def test_closing_stops_a_running_request(generator, tmp_path):
    service = GenerationService(generator, Limits(), tmp_path)
    generator.pause = 0.1
    updates = service.grid(1, RANDOM, 0, {"num_inference_steps": 200})
    next(updates), next(updates)
    began = time.perf_counter()
    service.close()
    assert time.perf_counter() - began < 10
    updates.close()
