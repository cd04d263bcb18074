"""Every file in configs/ describes both stages, and docs/recipes.md describes every file."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.config import load_config
from diffusion.pipeline import ImageGenerator
from diffusion.prior import Prior, fitted_generation
from training.run import RunConfig
from vq.tokenizer import Tokenizer

CONFIGS = sorted(Path("configs").glob("*.yaml"))
RECIPES = Path("docs/recipes.md").read_text(encoding="utf-8")
CLASSES = {"cifar10": 10, "ffhq256": 0, "mnist": 10} | {p.stem: 1000 for p in CONFIGS if "imagenet" in p.stem}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_both_stages_are_configured_and_fit_each_other(path):
    config = load_config(RunConfig, path, required="tokenizer")
    assert load_config(RunConfig, path, required="prior") == config
    assert config.output_dir == f"runs/{path.stem}"
    class_names = [str(index) for index in range(CLASSES.get(path.stem, 9))]
    assert fitted_generation(config.prior, class_names) == config.prior.generation
    with torch.device("meta"):
        tokenizer = Tokenizer(config.tokenizer, config.data.image_size, config.data.channels)
        side = config.data.image_size // tokenizer.downsample
        prior = Prior(config.prior.resolved(tokenizer.groups), tokenizer.codebook_size, (side, side), class_names)
    millions = sum(parameter.numel() for parameter in prior.parameters()) / 1e6
    (row,) = re.findall(rf"^.*`{path.name}`.*\| ([\d.]+) M \|$", RECIPES, flags=re.MULTILINE)
    assert float(row) == pytest.approx(millions, rel=0.03)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_small_model_of_each_configuration_samples_with_its_defaults(path):
    config = load_config(RunConfig, path)
    quantizer = replace(config.tokenizer.quantizer, kmeans_init=False)
    small = replace(config.tokenizer, width=8, blocks=1, quantizer=quantizer)
    size = 4 * config.tokenizer.downsample
    tokenizer = Tokenizer(small, size, config.data.channels).eval()
    class_names = [] if path.stem == "ffhq256" else ["a", "b"]
    prior_config = replace(config.prior.resolved(tokenizer.groups), width=16, depth=1, heads=1)
    prior = Prior(prior_config, tokenizer.codebook_size, (4, 4), class_names).eval()
    (image,) = ImageGenerator(tokenizer, prior).generate(n=1, num_inference_steps=2)
    assert image.size == (size, size)


@pytest.mark.parametrize("overrides", re.findall(r"`(data\.\w+): (\w+)`", RECIPES), ids=str)
def test_changes_of_the_recipes_load(overrides):
    load_config(RunConfig, "configs/folder64.yaml", ["=".join(overrides)])
