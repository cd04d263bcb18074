"""Score a model, or a folder of images, against reference images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from common.features import EfficientNetFeatures
from common.metrics import frechet_distance
from common.model_dir import model_directory
from diffusion.pipeline import ImageGenerator
from evaluation.gallery import NAMES
from evaluation.likelihood import score_likelihood
from evaluation.networks import load_networks
from evaluation.reconstruction import score_reconstruction
from evaluation.reference import EMBEDDED, ReferenceImages
from evaluation.report import check_paths, frechet_part, write_report
from evaluation.samples import choose_settings, score_samples
from images.convert import from_8_bits
from images.folder import find_images
from images.io import read_image
from vq.tokenizer import Tokenizer

log = logging.getLogger(__name__)
EMBEDDED_SIZE = 32


def evaluate_model(
    model: str | Path,
    reference: str,
    out: Path,
    *,
    samples: int = 500,
    seed: int = 0,
    options: Mapping[str, object] | None = None,
    only_reconstruction: bool = False,
    download: bool = True,
) -> None:
    """Score a model's reconstructions, and if it has a prior its likelihood and samples; write the report and images.

    Args:
        model: a model directory, or "hf:owner/name".
        reference: "mnist5k" (its validation split), or a folder of images.
        out: the report; its images are written next to it.
        samples: number of samples.
        seed: of the samples and of the likelihood.
        options: sampling options that replace the model's own, see `diffusion.settings.SamplingSettings`.
        only_reconstruction: leave out likelihood and samples; the prior is not read.
        download: whether missing weights for LPIPS and rFID may be downloaded.

    Raises:
        UserError: the model or the reference cannot be read, an option does not fit, `out` cannot be written.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    directory = model_directory(model)
    with_prior = not only_reconstruction and (directory / "prior").exists()
    generator = ImageGenerator.from_pretrained(directory, device) if with_prior else None
    settings = choose_settings(generator, directory, options or {}) if generator is not None else None
    tokenizer = Tokenizer.from_pretrained(directory, device) if generator is None else generator.tokenizer
    images = ReferenceImages(reference, tokenizer.image_size, tokenizer.channels)
    check_paths(out, NAMES)
    if generator is None and not only_reconstruction:
        log.warning("%s holds no prior: only reconstruction is scored", model)
    networks = load_networks(tokenizer.image_size, device, download)
    found = score_reconstruction(tokenizer, images, networks, device)
    report: dict[str, object] = {"model": str(model), "reference": reference, "reconstruction": found.report}
    if generator is not None and settings is not None:
        report["likelihood"] = score_likelihood(generator, found.codes, found.classes, seed)
        report["samples"] = score_samples(
            generator, settings, samples, seed, networks.efficientnet, reference, found.features
        )
    write_report(out, report, found.image_grids)


def evaluate_folder(folder: Path, reference: str, out: Path) -> None:
    """Write the Frechet distance between the images of two folders, at the size of the first image of `folder`.

    The size is the reference's own where that is "mnist5k". Raises UserError as `evaluate_model`.
    """
    check_paths(out)
    size = EMBEDDED_SIZE if reference == EMBEDDED else min(read_image(find_images(folder)[0]).size)
    extractor = EfficientNetFeatures()
    features = []
    with torch.no_grad():
        for images in (ReferenceImages(folder, size, 3), ReferenceImages(reference, size, 3)):
            features.append(torch.cat([extractor(from_8_bits(batch.pixels)) for batch in images]))
    distance = frechet_distance(*features)
    part = frechet_part(distance, extractor.name, len(features[0]), reference, len(features[1]))
    write_report(out, {"images": str(folder), "samples": part})
