"""Score a model against reference images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from common.errors import UserError, print_note
from common.model_dir import model_directory
from diffusion.pipeline import ImageGenerator
from evaluation.gallery import NAMES
from evaluation.likelihood import match_classes, score_likelihood
from evaluation.networks import load_networks
from evaluation.overlap import count_training_images
from evaluation.reconstruction import score_reconstruction
from evaluation.reference import ReferenceImages
from evaluation.report import check_images, check_report, write_report
from evaluation.samples import choose_settings, score_samples
from evaluation.source import find_source
from vq.tokenizer import Tokenizer

log = logging.getLogger(__name__)
SAMPLES = 500


def evaluate_model(
    model: str | Path,
    reference: str,
    out: Path,
    *,
    samples: int | None = None,
    seed: int | None = None,
    options: Mapping[str, object] | None = None,
    only_reconstruction: bool = False,
    download: bool = True,
) -> None:
    """Score a model's reconstructions, and if it has a prior its likelihood and samples; write the report and images.

    Args:
        model: a model directory, or "hf:owner/name".
        reference: a folder of images, one split of it, a training configuration or "mnist5k", see
            `evaluation.source.find_source`.
        out: the report; its images are written next to it.
        samples: number of samples; None: SAMPLES.
        seed: of the samples and of the likelihood; None: 0.
        options: sampling options that replace the model's own, see `diffusion.settings.SamplingSettings`.
        only_reconstruction: leave out likelihood and samples; the prior is not read.
        download: whether missing weights for LPIPS and rFID may be downloaded.

    Raises:
        UserError: the model or the reference cannot be read, an option does not fit, `out` cannot be written.
    """
    source, directory = find_source(reference), model_directory(model)
    check_report(out)
    check_images(out, NAMES, source.root if source.data is None else None)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with_prior = not only_reconstruction and (directory / "prior").exists()
    if not with_prior and (samples is not None or seed is not None or options):
        raise UserError("number, seed and options of samples need a prior, which is not scored here: leave them out")
    generator = ImageGenerator.from_pretrained(directory, device) if with_prior else None
    settings = choose_settings(generator, directory, options or {}) if generator is not None else None
    tokenizer = Tokenizer.from_pretrained(directory, device) if generator is None else generator.tokenizer
    images = ReferenceImages(source, tokenizer.image_size, tokenizer.channels)
    images.describe("reference")
    if generator is not None and (note := match_classes(images.class_counts, generator.prior).note()):
        print_note(note)
    trained = count_training_images(directory, images)
    if trained:
        print_note(
            f"{trained} of the {images.count} reference images are training images of this model, which makes its scores "
            f"better than those of new images: give the config.yaml of its run, or FOLDER:val, as the reference"
        )
    if generator is None and not only_reconstruction:
        log.warning("%s holds no prior: only reconstruction is scored", model)
    networks = load_networks(tokenizer.image_size, device, download)
    found = score_reconstruction(tokenizer, images, networks, device)
    report: dict[str, object] = {"model": str(model), "reference": reference, "reconstruction": found.report}
    if generator is not None and settings is not None:
        report["likelihood"] = score_likelihood(generator, found.codes, found.classes, seed or 0)
        report["samples"] = score_samples(
            generator, settings, samples or SAMPLES, seed or 0, networks.efficientnet, reference, found.features
        )
    report["data"] = {"reference": images.part() | {"training_images": trained}}
    write_report(out, report, found.image_grids)
