"""The Frechet distance of a model's samples to the reference images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.errors import print_note
from common.features import EfficientNetFeatures
from common.model_dir import GENERATION_FILE
from diffusion.call_bar import CallBar
from diffusion.settings import SamplingSettings
from evaluation.decode import decode_pixels
from evaluation.frechet import distance_with_bar, frechet_part
from evaluation.report import Part
from images.convert import from_8_bits

if TYPE_CHECKING:
    from diffusion.pipeline import ImageGenerator

BATCH_SIZE = 100
GUIDANCE_SCALE = 2.0  # of a model with guidance and without generation defaults


def choose_settings(generator: ImageGenerator, directory: Path, options: Mapping[str, object]) -> SamplingSettings:
    """The settings of the samples; prints them to stderr.

    The given `options` come first, then the model's generation.json. A model without that file samples with
    GUIDANCE_SCALE, or without guidance where it has none.
    """
    given = dict(options)
    has_defaults = (directory / "prior" / GENERATION_FILE).is_file()
    if not has_defaults:
        given.setdefault("guidance_scale", GUIDANCE_SCALE if generator.guided else 1.0)
    settings = generator.settings(**given)
    source = GENERATION_FILE if has_defaults else f"evaluate.py, as the model has no {GENERATION_FILE}"
    print_note(f"samples use {settings.summary()}; options that are not given are those of {source}")
    return settings


def score_samples(
    generator: ImageGenerator,
    settings: SamplingSettings,
    count: int,
    seed: int,
    extractor: EfficientNetFeatures,
    reference: str,
    reference_features: Tensor,
) -> Part:
    """The Frechet distance of `count` samples, taken over all classes in turn, to the reference's features `(N, D)`.

    Args:
        extractor: the network of `reference_features`.
        reference: name or folder of the reference images.
    """
    labels = list(range(len(generator.class_names))) or [generator.classes.no_class]
    features, calls = [], []
    with CallBar(f"sample {count} images") as bar:
        request = generator.request(
            count, labels, "pil", {"seed": seed, "settings": settings, "progress": bar.next_request()}
        )
        for batch in generator.sample_batches(request, batch_size=BATCH_SIZE):
            with torch.no_grad():
                images = from_8_bits(decode_pixels(generator.tokenizer, batch.codes))
                features.append(extractor(images).cpu())
            calls.append(batch.network_calls.double())
    distance = distance_with_bar(torch.cat(features), reference_features, extractor.name)
    return (
        frechet_part(distance, extractor.name, count, reference, len(reference_features))
        | {"classes": "all, equally often" if generator.class_names else "none"}
        | {"network_calls": torch.cat(calls).mean().item(), "seed": seed}
        | asdict(settings)
    )
