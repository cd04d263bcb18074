import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError
from common.features import WeightsMissing
from vq.perceptual import (
    EfficientNetDistance,
    LPIPSDistance,
    ResNetLogitDistance,
    build_perceptual,
    load_downloaded,
)

# The package lpips calls torchvision in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated since 0.13")
DISTANCES = {
    "efficientnet": EfficientNetDistance,
    "lpips": lambda: LPIPSDistance(pretrained=False),
    "resnet50": lambda: ResNetLogitDistance(pretrained=False),
}


@pytest.fixture(scope="module")
def distances():
    torch.manual_seed(0)
    return {name: build() for name, build in DISTANCES.items()}


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("channels", [1, 3])
def test_distances_are_zero_for_equal_images_alone(name, channels, distances):
    images = torch.rand(2, channels, 32, 32) * 2 - 1
    values = distances[name](images, -images)
    assert values.shape == (2,)
    assert values.min() > 0
    assert distances[name](images, images).abs().max() == 0


@pytest.mark.parametrize("name", DISTANCES)
def test_each_image_is_compared_with_its_own_target(name, distances):
    images, targets = (torch.rand(2, 3, 32, 32) * 2 - 1 for _ in range(2))
    together = distances[name](images, targets)
    alone = torch.cat([distances[name](images[i : i + 1], targets[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_are_float32_in_autocast_and_have_a_finite_gradient_for_blank_images(name, distances):
    blank = torch.zeros(1, 3, 32, 32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        value = distances[name](blank, torch.rand(1, 3, 32, 32))
    assert value.dtype == torch.float32
    value.sum().backward()
    assert bool(blank.grad.isfinite().all())
    assert blank.grad.abs().sum() > 0


@pytest.mark.parametrize("name", DISTANCES)
def test_networks_are_frozen(name, distances):
    assert not any(parameter.requires_grad for parameter in distances[name].parameters())


@pytest.mark.parametrize("name", ["efficientnet", "resnet50"])
def test_batch_norm_stays_in_eval_mode(name, distances):
    images = torch.rand(1, 3, 32, 32)
    before = {key: value.clone() for key, value in distances[name].state_dict().items()}
    distances[name].train()(images, -images)
    assert not any(m.training for m in distances[name].modules() if isinstance(m, nn.BatchNorm2d))
    assert all(torch.equal(value, before[key]) for key, value in distances[name].state_dict().items())


def test_lpips_has_the_value_of_the_package(distances):
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    expected = distances["lpips"].network(images, -images).flatten()  # the package's own forward pass
    torch.testing.assert_close(distances["lpips"](images, -images), expected, rtol=1e-2, atol=1e-4)


def test_lpips_has_a_finite_gradient_where_all_features_are_zero(distances):
    distance = copy.deepcopy(distances["lpips"])
    for module in distance.network.net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            nn.init.constant_(module.bias, -1.0)
    images = torch.zeros(1, 1, 32, 32, requires_grad=True)
    distance(images, images.detach() + 0.5).sum().backward()
    assert bool(images.grad.isfinite().all())


def test_resnet_sees_images_of_224_pixels_normalised_as_imagenet(distances):
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = ((images + 1) / 2 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    large = F.interpolate(normalised, size=(224, 224), mode="bilinear", antialias=True)
    distance = distances["resnet50"]
    torch.testing.assert_close(distance.logits(images), distance.network(large), rtol=1e-3, atol=1e-3)


def test_none_builds_nothing_and_efficientnet_needs_no_download():
    assert build_perceptual("none") == (None, "none")
    distance, name = build_perceptual("efficientnet")
    assert isinstance(distance, EfficientNetDistance)
    assert name == "efficientnet"


MISSING = [("lpips", "vgg16-397923af.pth"), ("resnet50", "resnet50-0676ba61.pth")]


@pytest.mark.parametrize(("name", "file"), MISSING)
def test_missing_weights_are_named(name, file, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=f"place {file} in {tmp_path}.* cannot be downloaded.*perceptual=efficientnet"):
        build_perceptual(name)
    with pytest.raises(WeightsMissing, match=f"place {file}"):
        load_downloaded(name, download=False)


@pytest.mark.parametrize(("name", "file"), MISSING)
def test_damaged_weights_are_named(name, file, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    (tmp_path / "hub/checkpoints" / file).write_bytes(b"half")
    with pytest.raises(UserError, match=f"{file} cannot be read: replace it"):
        build_perceptual(name)


def test_auto_takes_lpips_else_efficientnet_else_nothing_with_a_warning(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr("vq.perceptual.load_downloaded", lambda name: nn.Identity())
    assert build_perceptual("auto")[1] == "lpips"
    monkeypatch.undo()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert build_perceptual("auto")[1] == "efficientnet"

    def not_installed():
        raise UserError("EfficientNet-lite0 is not installed")

    monkeypatch.setattr("vq.perceptual.EfficientNetFeatures", not_installed)
    assert build_perceptual("auto") == (None, "none")
    assert "without a perceptual loss" in caplog.text
    with pytest.raises(UserError, match="not installed"):
        build_perceptual("efficientnet")
