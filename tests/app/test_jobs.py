import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page's tests need gradio: pip install -e '.[app]'")

from app.choices import DEFAULT_SAMPLER, IN_TURN, NO_CLASS, RANDOM, Choices
from app.data_url import data_url
from app.jobs import Edges, grid_columns, grid_job, morph_job, outpaint_job, repaint_job, vary_job
from app.uploads import DEFAULT_LIMITS, Limits, mask_layer
from common.errors import UserError
from diffusion.graph import Absorbing, Uniform
from diffusion.pipeline import ImageGenerator
from tests.app.fake_generator import FakeGenerator
from tests.app.files import ODD, box_mask, changed_inside, same_outside, sample_image, written

CANVAS = data_url(mask_layer(box_mask((64, 64), (0, 0, 9, 9))))


@pytest.fixture
def path(tmp_path):
    return written(tmp_path, "image.png", sample_image())


def make(kind, path, changed=None, limits=DEFAULT_LIMITS, generator=None):
    """A job of valid values, some of them changed."""
    values = {"variants": 2, "strength": 0.5, "choices": Choices(NO_CLASS, 7)} | (changed or {})
    image, choices, generator = values.get("image_path", path), values["choices"], generator or FakeGenerator()
    edges, variants = Edges(values.get("margin", 1), values.get("feather", 0)), values["variants"]
    if kind == "repaint":
        canvas, fit = values.get("canvas", CANVAS), values.get("fit", True)
        return repaint_job(generator, limits, image, values.get("mask_path"), canvas, variants, fit, edges, choices)
    if kind == "outpaint":
        return outpaint_job(generator, limits, image, values.get("sides", (0, 0, 8, 4)), variants, edges, choices)
    if kind == "vary":
        return vary_job(generator, limits, image, values["strength"], variants, choices)
    if kind == "morph":
        other = values.get("other_path", path)
        return morph_job(generator, limits, image, other, values["strength"], values.get("frames", 4), choices)
    return grid_job(generator, limits, values.get("number", 4), choices)


KINDS = ("repaint", "outpaint", "vary", "morph", "grid")
EDITS = KINDS[:4]


def results_of(job):
    """The results, with all previews that the steps gave."""
    previews = []
    return job.generate(lambda _, step, left, state: previews.append(job.preview(state["codes"]))), previews


def test_repainted_variants_differ_only_inside_the_mask(path):
    image, mask = sample_image(), box_mask((64, 64), (10, 20, 30, 40))
    options = {"sampler": "halton", "num_inference_steps": 5, "guidance_scale": 2.0}
    changed = {"canvas": data_url(mask_layer(mask)), "variants": 3, "choices": Choices(1, 7, False, options)}
    generator = FakeGenerator()
    job = make("repaint", path, changed | {"margin": 2, "feather": 3}, generator=generator)
    results, previews = results_of(job)
    for shown in (results, previews[0]):
        assert len(shown) == 3
        for one in shown:
            assert same_outside(image, one, mask)
            assert changed_inside(image, one, mask) > 0.9
    assert len({result.tobytes() for result in results}) == 3
    settings = generator.settings(**options)
    assert generator.calls == [
        {"class_labels": 1, "fit": True, "margin": 2, "feather": 3, "seed": 7, "settings": settings}
    ]
    assert (job.summary, job.steps) == ("3 variants", 5)


def test_the_other_operations_pass_their_values_on(path, tmp_path):
    other = written(tmp_path, "other.png", Image.new("RGB", (64, 64), "red"))
    generator = FakeGenerator()
    common = {"seed": 7, "settings": generator.defaults, "class_labels": "none"}
    sizes = {}
    for kind, changed in [("outpaint", {"sides": (3, 0, 8, 4), "feather": 2}), ("vary", {"strength": 0.25}),
                          ("morph", {"other_path": other, "frames": 3})]:  # fmt: skip
        job = make(kind, path, changed, generator=generator)
        results, previews = results_of(job)
        sizes[kind] = len(results), results[0].size, previews[0][0].size, job.steps
    assert sizes == {
        "outpaint": (2, (75, 68), (75, 68), 4), "vary": (2, (64, 64), (64, 64), 1), "morph": (3, (64, 64), (64, 64), None),
    }  # fmt: skip
    assert generator.calls == [
        common | {"sides": (3, 0, 8, 4), "margin": 1, "feather": 2}, common | {"strength": 0.25},
        common | {"strength": 0.5},
    ]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_changed_at_their_size(name, tmp_path):
    path = written(tmp_path, name, ODD[name])
    size = Image.open(path).size
    canvas = data_url(mask_layer(box_mask(size, (8, 8, 40, 40))))
    for kind in ("repaint", "vary"):
        results, previews = results_of(make(kind, path, {"canvas": canvas}))
        assert results[0].size == size
        ratio = size[0] / size[1]
        assert previews[0][0].size[0] / previews[0][0].size[1] == pytest.approx(ratio, rel=0.05)


@pytest.mark.parametrize(
    ("kinds", "changed", "words"),
    [
        (EDITS, {"image_path": None}, "no image"), (["repaint"], {"canvas": ""}, "nothing is painted"),
        *[(["repaint", "outpaint", "vary"], {"variants": value}, "variants") for value in (9, 0, 1.5, None, "2")],
        *[(["outpaint"], {"sides": value}, "nothing to add|left|bottom") for value in
          ((0, 0, 0, 0), (-1, 0, 0, 8), (0, 0, 0, 513), (None, 0, 0, 8))],
        *[(["repaint", "outpaint"], {"margin": value}, "margin") for value in (-1, 9, None, 0.5)],
        *[(["repaint", "outpaint"], {"feather": value}, "feather") for value in (-1, 65, "1")],
        *[(["vary", "morph"], {"strength": value}, "strength") for value in (0, 1.1, None, "1", float("nan"))],
        *[(["morph"], {"frames": value}, "images") for value in (1, 17, None)],
        (["morph"], {"other_path": None}, "no last image"),
        *[(["grid"], {"number": value}, "images") for value in (0, 65, None, "4")],
        (KINDS, {"choices": Choices(2)}, "label"),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(kinds, changed, words, path):
    for kind in kinds:
        generator = FakeGenerator()
        with pytest.raises(UserError, match=words):
            make(kind, path, changed, generator=generator)
        assert not generator.calls


def test_large_images_get_few_variants(path):
    limits = Limits(all_pixels=2 * 64 * 64)
    make("repaint", path, {"variants": 2}, limits)
    for kind, changed in [("repaint", {"variants": 3}), ("vary", {"variants": 3}), ("morph", {"frames": 3})]:
        with pytest.raises(UserError, match="at most 2 images of 64 x 64"):
            make(kind, path, changed, limits)
    with pytest.raises(UserError, match="at most 1 images of 128 x 64"):
        make("outpaint", path, {"sides": (0, 0, 64, 0)}, limits)


def test_grid_labels_in_turn_make_columns():
    assert [grid_columns(6, IN_TURN, 2), grid_columns(9, RANDOM, 2), grid_columns(1, IN_TURN, 2)] == [2, 3, 1]
    assert grid_columns(9, IN_TURN, 100) == 3, "too many classes for columns"
    generator = FakeGenerator()
    (grid,), previews = results_of(make("grid", None, {"number": 6, "choices": Choices(IN_TURN)}, generator=generator))
    assert grid.size == (2 * 34 - 2, 3 * 34 - 2) == previews[0][0].size
    assert generator.calls[0]["class_labels"] == [0, 1]


def test_what_is_pasted_is_what_is_shown(path):
    """A preview whose codes are all known is the result."""
    generator = ImageGenerator.from_pretrained("models/emoji64", "cpu")
    mask = box_mask((64, 64), (20, 30, 50, 60))
    changed = {
        "canvas": data_url(mask_layer(mask)),
        "feather": 3,
        "choices": Choices(NO_CLASS, 1, False, {"num_inference_steps": 2}),
    }
    for kind in ("repaint", "outpaint", "vary"):
        results, previews = results_of(make(kind, path, changed, generator=generator))
        for result, preview in zip(results, previews[-1], strict=True):
            assert np.array_equal(result, preview), kind


def test_the_default_sampler_of_repainting_is_that_of_the_graph(path):
    def sampler(kind, graph, chosen):
        choices = Choices(NO_CLASS, 0, False, {"sampler": chosen})
        return make(kind, path, {"choices": choices}, generator=FakeGenerator(graph=graph)).request.settings.sampler

    for kind in KINDS:
        assert sampler(kind, Absorbing, DEFAULT_SAMPLER) == "tweedie"
        expected = "predictor_corrector" if kind in ("repaint", "outpaint") else "tweedie"
        assert sampler(kind, Uniform, DEFAULT_SAMPLER) == expected
        assert sampler(kind, Uniform, "euler") == "euler"
