"""Keywords that a method does not have."""

import pytest

from common.errors import UserError
from diffusion.keywords import REQUEST_KEYWORDS, check_sampling_keywords
from diffusion.pipeline import ImageGenerator
from diffusion.settings import SamplingSettings, setting_fields

METHODS = ["generate", "inpaint", "outpaint", "vary", "morph", "__call__"]


@pytest.mark.parametrize(("method", "wrong", "nearest"), [
    ("generate", "class_label", "class_labels"),
    ("generate", "num_images_per_prompt", "n"),
    ("generate", "prompt", "class_labels"),
    ("generate", "steps", "num_inference_steps"),
    ("generate", "guidance", "guidance_scale"),
    ("generate", "torch_dtype", ""),
    ("generate", "strength", ""),
    ("generate", "mask", ""),
    ("inpaint", "mask", "mask_image"),
    ("inpaint", "box", "boxes"),
    ("outpaint", "Right", "right"),
    ("vary", "strenght", "strength"),
    ("morph", "others", "other"),
    ("__call__", "num_images", "n"),
    ("__call__", "init_image", "image"),
])  # fmt: skip
def test_the_nearest_keyword_is_one_that_the_method_has(generator, method, wrong, nearest):
    with pytest.raises(UserError, match=f"{method} has no keyword '{wrong}': the nearest one is '{nearest}") as raised:
        check_sampling_keywords(getattr(generator, method), {wrong: 1})
    named = str(raised.value).rsplit("'", 2)[1]
    check_sampling_keywords(getattr(generator, method), {named: 1})


@pytest.mark.parametrize("method", METHODS)
def test_known_keywords_pass(generator, method):
    fields = [field.name for field in setting_fields(SamplingSettings)]
    check_sampling_keywords(getattr(generator, method), [*REQUEST_KEYWORDS, *fields, "first", "output_type"])


@pytest.mark.parametrize(
    "call",
    [
        lambda g: g.generate(num_images_per_prompt=2),
        lambda g: g.generate(prompt="a cat"),
        lambda g: g.generate(base=1),
        lambda g: g(class_label=3),
        lambda g: g.inpaint(None, mask=None),
        lambda g: ImageGenerator.from_pretrained("nowhere", torch_dtype="float16"),
        lambda g: ImageGenerator.from_pretrained("nowhere", use_safetensors=True),
    ],
)
def test_an_unknown_keyword_is_a_user_error_before_anything_else(generator, call):
    with pytest.raises(UserError, match="has no keyword"):
        call(generator)


def test_from_pretrained_names_its_own_keyword():
    with pytest.raises(UserError, match="has no keyword 'torch_dtype': the nearest one is 'dtype'"):
        ImageGenerator.from_pretrained("nowhere", torch_dtype="float16")
