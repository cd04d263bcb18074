"""Keyword arguments that a method does not have: the error names the nearest one that it has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable

from common.errors import UserError, nearest_of
from diffusion.settings import SamplingSettings, names_by_flag, setting_fields

# What the keywords are called elsewhere, where the spelling does not lead there.
OTHER_NAMES = {
    "num_images_per_prompt": "n", "num_images": "n", "num_samples": "n", "prompt": "class_labels", "label": "class_labels",
    "mask": "mask_image", "init_image": "image", "cfg_scale": "guidance_scale", "torch_dtype": "dtype",
    "callback": "callback_on_step_end", "random_state": "seed",
}  # fmt: skip
REQUEST_KEYWORDS = ("seed", "generator", "callback_on_step_end", "progress", "settings")  # of every method that samples
INTERNAL_KEYWORDS = ("first",)  # taken, and not suggested


def check_sampling_keywords(
    method: Callable[..., object], given: Iterable[str], schema: type[SamplingSettings] = SamplingSettings
) -> None:
    """Raise UserError for a keyword that is none of the method's own, of a request's or of the sampling settings."""
    fields = setting_fields(schema)
    more = (*REQUEST_KEYWORDS, *(field.name for field in fields))
    check_keywords(method, (name for name in given if name not in INTERNAL_KEYWORDS), more, names_by_flag(fields))


def check_keywords(
    method: Callable[..., object], given: Iterable[str], more: Iterable[str] = (), aliases: dict[str, str] | None = None
) -> None:
    """Raise UserError for a keyword that `method` does not have; the message names the nearest.

    Args:
        more: keywords that the method takes besides the parameters that it names.
        aliases: other names of keywords, besides OTHER_NAMES.
    """
    parameters = inspect.signature(method).parameters.values()
    known = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)] + [*more]
    for name in given:
        if name not in known:
            other = (OTHER_NAMES | (aliases or {})).get(name)
            nearest = other if other in known else nearest_of(name, known)
            raise UserError(f"{method.__name__} has no keyword '{name}': the nearest one is '{nearest}'")
