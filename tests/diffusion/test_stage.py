"""One training step of the prior."""

import math

import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

from common.config import TrainConfig
from diffusion.prior import Prior, PriorConfig, fitted_generation
from diffusion.settings import SamplingSettings
from diffusion.stage import PriorStage

CODES = torch.randint(16, (40, 4, 4), generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 3


def make_stage(groups=1, **config):
    torch.manual_seed(0)
    config = PriorConfig(width=32, depth=1, heads=2, train=TrainConfig(learning_rate=1e-2, ema_decay=0.5), **config)
    stage = PriorStage(config, Accelerator(cpu=True), 16, (4, 4), ["a", "b", "c"], seed=3, groups=groups)
    stage.set_learning_rate(1.0)
    return stage


def test_the_noise_of_a_step_depends_on_the_seed_and_the_step_alone():
    first, second = make_stage(), make_stage()
    first.step((CODES, LABELS), 0)  # whatever came before
    second.model.load_state_dict(first.model.state_dict())
    losses = [stage.step((CODES, LABELS), 5)["loss"].item() for stage in (first, second)]
    assert losses[0] == losses[1]
    assert make_stage().step((CODES, LABELS), 5)["loss"] != make_stage().step((CODES, LABELS), 6)["loss"]


def test_steps_lower_the_loss_and_move_the_average():
    stage = make_stage()
    before = stage.ema.module.network.head.bias.clone()
    losses = [stage.step((CODES, LABELS), step)["loss"].item() for step in range(40)]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert not torch.equal(before, stage.ema.module.network.head.bias)


def test_a_step_that_is_not_finite_moves_nothing_and_says_so():
    stage = make_stage()
    with torch.no_grad():
        stage.model.network.head.bias[0] = math.nan
    before = {name: value.clone() for name, value in stage.model.state_dict().items()}
    assert stage.step((CODES, LABELS), 0)["skipped"] == 1
    for name, value in stage.model.state_dict().items():
        assert torch.equal(value, before[name]) or name == "network.head.bias", name


@pytest.mark.parametrize("learning_rate_scale", [0.0, 0.5])
def test_the_learning_rate_is_scaled(learning_rate_scale):
    stage = make_stage()
    stage.set_learning_rate(learning_rate_scale)
    assert [group["lr"] for group in stage.optimizer.param_groups] == [1e-2 * learning_rate_scale]


def test_validation_is_in_bits_a_code_and_the_tokenizers_sub_codes_are_taken_over():
    stage = make_stage(groups=2)  # a new network predicts all codes alike
    scores = stage.evaluate(DataLoader(TensorDataset(CODES, LABELS), batch_size=16))
    assert stage.ema.module.groups == 2
    assert abs(scores["bits_per_code"] - 4) < 4 * scores["standard_error"] + 1e-6


def test_the_exported_model_is_the_average(tmp_path):
    stage = make_stage()
    for step in range(3):
        stage.step((CODES, LABELS), step)
    stage.export(tmp_path / "prior", {"steps": 3})
    loaded = Prior.from_pretrained(tmp_path)
    assert torch.equal(loaded.network.head.bias, stage.ema.module.network.head.bias)
    assert not torch.equal(loaded.network.head.bias, stage.model.network.head.bias)


@pytest.mark.parametrize(
    ("config", "class_names", "sampler", "guidance"),
    [
        ({}, ["a", "b"], "maskgit", 2.0),
        ({"graph": "uniform"}, ["a", "b"], "tweedie", 2.0),
        ({"label_dropout": 0.0}, ["a", "b"], "maskgit", 1.0),
        ({}, [], "maskgit", 1.0),
    ],
)
def test_generation_defaults_of_a_configuration_are_fitted_to_the_model(config, class_names, sampler, guidance):
    generation = SamplingSettings(sampler="maskgit", num_inference_steps=8, guidance_scale=2.0)
    fitted = fitted_generation(PriorConfig(generation=generation, **config), class_names)
    assert (fitted.sampler, fitted.guidance_scale, fitted.num_inference_steps) == (sampler, guidance, 8)
