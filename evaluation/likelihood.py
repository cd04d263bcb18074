"""The likelihood of the reference images' codes under the prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evaluation.report import Part

if TYPE_CHECKING:
    from diffusion.pipeline import ImageGenerator


def class_labels(classes: Sequence[str], known: Sequence[str]) -> Tensor:
    """Labels `(N,)` of `classes` for a model of the classes `known`; all "no class" (their number) if they are others."""
    no_class = len(known)
    if sorted(set(classes)) != list(known):
        return torch.full((len(classes),), no_class)
    number = {name: index for index, name in enumerate(known)}
    return torch.tensor([number[name] for name in classes])


def score_likelihood(generator: ImageGenerator, codes: Tensor, classes: Sequence[str], seed: int) -> Part:
    """The bound on the likelihood of codes `(N, h, w)`, given their classes if the model has exactly these classes.

    Args:
        classes: N names, "" for an image without a class.
        seed: of the noise.
    """
    labels = class_labels(classes, generator.class_names)
    bound = generator.prior.likelihood(
        codes.to(generator.device), labels.to(generator.device), torch.Generator().manual_seed(seed % 2**64)
    )
    dimensions = generator.tokenizer.channels * generator.tokenizer.downsample**2  # numbers that one code stands for
    return {
        "what": "upper bound on -log p(codes | class) of the reference's codes",
        "nats_per_code": bound.nats,
        "bits_per_code": bound.nats / math.log(2),
        "bits_per_code_standard_error": bound.standard_error / math.log(2),
        "bits_per_dimension": bound.nats / math.log(2) / dimensions,
    }
