import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError
from vq import loss as losses
from vq.discriminator import BlurPool, DiscriminatorConfig, build_discriminator
from vq.loss import LeCam, LossConfig, adaptive_weight, build_perceptual, r1_penalty, warm_in


def test_hinge_by_hand():
    # relu(1 - 2) = 0, relu(1 - 0) = 1; relu(1 - 3) = 0, relu(1 + 1) = 2: half of (0.5 + 1)
    assert losses.hinge_discriminator_loss(torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])).item() == 0.75
    assert losses.hinge_generator_loss(torch.tensor([-3.0, 1.0])).item() == 1.0


def test_non_saturating_by_hand():
    # D = sigmoid of these: 0.75 and 0.5 for real, 0.2 for fake
    real, fake = torch.tensor([math.log(3), 0.0]), torch.tensor([-math.log(4)])
    wanted = 0.5 * (-(math.log(0.75) + math.log(0.5)) / 2 - math.log(0.8))
    assert math.isclose(losses.non_saturating_discriminator_loss(real, fake).item(), wanted, rel_tol=1e-6)
    assert math.isclose(losses.non_saturating_generator_loss(fake).item(), -math.log(0.2), rel_tol=1e-6)


@pytest.mark.parametrize("kind", losses.ADVERSARIAL)
def test_each_side_is_pulled_its_own_way(kind):
    discriminate, generate = losses.ADVERSARIAL[kind]
    real, fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    discriminate(real, fake).backward()
    assert bool((real.grad < 0).all()) and bool((fake.grad > 0).all())  # real answers are to rise, fake ones to fall
    fake.grad = None
    generate(fake).backward()
    assert bool((fake.grad < 0).all())


def test_adaptive_weight_is_the_ratio_of_norms_and_clamped():
    torch.testing.assert_close(
        adaptive_weight(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])), torch.tensor(5 / 2.0001)
    )
    assert adaptive_weight(torch.tensor([1e9]), torch.tensor([0.0])).item() == 1e4


def test_warm_in_rises_from_zero_to_one():
    assert [warm_in(step, 10, 4) for step in (0, 9, 10, 11, 13, 14, 99)] == [0, 0, 0.25, 0.5, 1, 1, 1]
    assert [warm_in(step, 10, 0) for step in (9, 10)] == [0, 1]


def test_lecam_by_hand():
    lecam = LeCam(decay=0.9)
    lecam.update(torch.tensor(1.0), torch.tensor(-1.0))
    assert (lecam.real.item(), lecam.fake.item()) == (1, -1)  # the first call sets
    lecam.update(torch.tensor(2.0), torch.tensor(0.0))
    torch.testing.assert_close(torch.stack([lecam.real, lecam.fake]), torch.tensor([1.1, -0.9]))
    # relu(0.6 + 0.9)^2 + relu(1.1 - 0.1)^2, of the means 0.6 and 0.1
    value = lecam(torch.tensor([0.2, 1.0]), torch.tensor([0.0, 0.2]))
    torch.testing.assert_close(value, torch.tensor(1.5**2 + 1.0**2))
    assert lecam(torch.tensor([-2.0]), torch.tensor([3.0])).item() == 0
    lecam.update(torch.tensor(math.nan), torch.tensor(0.0))
    torch.testing.assert_close(lecam.real, torch.tensor(1.1))


def test_r1_of_a_linear_judge_is_half_its_squared_weight():
    images = torch.randn(5, 1, 2, 2, requires_grad=True)
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    penalty = r1_penalty((images * weight).sum((1, 2, 3)), images)
    torch.testing.assert_close(penalty, torch.tensor(15.0))  # (1 + 4 + 9 + 16) / 2
    penalty.backward()
    torch.testing.assert_close(weight.grad, weight.detach())


@pytest.mark.parametrize(("kind", "side"), [("patchgan", 8), ("blurpool", 8)])
def test_discriminators_judge_patches(kind, side):
    torch.manual_seed(0)
    judge = build_discriminator(DiscriminatorConfig(kind=kind, width=8, layers=2), channels=3).eval()
    images = torch.rand(2, 3, 32, 32)
    answers = judge(images)
    assert answers.shape == (2, 1, side, side)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in judge.modules())
    # Group norm sees the whole picture, so its answers are frozen to show what a patch sees by itself.
    for name, module in list(judge.layers.named_children()):
        if isinstance(module, nn.GroupNorm):
            judge.layers[int(name)] = nn.Identity()
    changed = images.clone()
    changed[:, :, -1, -1] += 1
    difference = (judge(changed) - judge(images)).abs()
    assert bool((difference[..., 0, 0] == 0).all()) and bool((difference[..., -1, -1] > 0).all())


def test_blur_pool_keeps_constants_and_ramps_and_kills_the_finest_stripes():
    pool = BlurPool(2)
    torch.testing.assert_close(pool(torch.full((1, 2, 8, 8), 3.0)), torch.full((1, 2, 4, 4), 3.0))
    ramp = torch.arange(8.0).expand(1, 2, 8, 8)
    torch.testing.assert_close(pool(ramp)[..., 1:-1, 1:-1], torch.tensor([2.5, 4.5]).expand(1, 2, 2, 2))
    stripes = torch.tensor([1.0, -1.0] * 4).expand(1, 2, 8, 8)
    assert pool(stripes)[..., 1:-1].abs().max() < 1e-6


def test_efficientnet_distance_is_zero_for_equal_pictures_and_has_finite_gradients():
    distance, name = build_perceptual("efficientnet")
    assert name == "efficientnet" and isinstance(distance, nn.Module)
    first = torch.zeros(2, 1, 32, 32, requires_grad=True)
    second = torch.rand(2, 1, 32, 32)
    assert bool((distance(second, second) == 0).all()) and bool((distance(first, second) > 0).all())
    distance(first, second).sum().backward()
    assert bool(torch.isfinite(first.grad).all())
    assert build_perceptual("none") == (None, "none")


def test_lpips_is_zero_only_for_equals_and_blank_pictures_have_a_finite_gradient(monkeypatch):
    import lpips

    torch.manual_seed(0)
    # Its backbone cannot be had in a test; a random one of the same shape shows the path.
    original = lpips.LPIPS
    monkeypatch.setattr("lpips.LPIPS", lambda net, verbose: original(net=net, verbose=verbose, pnet_rand=True))
    distance, name = build_perceptual("lpips")
    assert name == "lpips" and not any(parameter.requires_grad for parameter in distance.parameters())
    images = torch.rand(2, 1, 32, 32) * 2 - 1
    assert distance(images, images).abs().max() == 0 and distance(images, -images).min() > 0
    # the package's value for usual features
    package = original(net="vgg", verbose=False, pnet_rand=True).eval()
    package.net, package.lins = distance.network.net, distance.network.lins
    wide = images.expand(-1, 3, -1, -1)
    torch.testing.assert_close(distance(images, -images), package(wide, -wide).flatten(), rtol=1e-2, atol=1e-4)
    for module in distance.network.net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            nn.init.constant_(module.bias, -1.0)  # all features zero
    blank = torch.zeros(1, 1, 32, 32, requires_grad=True)
    distance(blank, blank.detach() + 0.5).sum().backward()
    assert bool(blank.grad.isfinite().all())


def test_resnet_logits_in_float32_and_unmoved_by_train_mode(monkeypatch):
    import torchvision.models

    torch.manual_seed(0)
    original = torchvision.models.resnet50
    monkeypatch.setattr("torchvision.models.resnet50", lambda weights: original(weights=None))
    distance, name = build_perceptual("resnet50")
    assert name == "resnet50" and not any(parameter.requires_grad for parameter in distance.parameters())
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    first = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = distance.train()(first, -images)
    assert value.dtype == torch.float32 and value.shape == (1,) and value > 0
    assert bool((distance(images, images) == 0).all())
    value.sum().backward()
    assert bool(first.grad.isfinite().all()) and first.grad.abs().sum() > 0
    # by its definition: normalised as ImageNet is, 224 pixels
    normal = ((images + 1) / 2 - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(1, 3, 1, 1)
    large = F.interpolate(normal, size=(224, 224), mode="bilinear", antialias=True)
    torch.testing.assert_close(distance._logits(images), distance.network(large), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "file"), [("lpips", "vgg16-397923af.pth"), ("resnet50", "resnet50-0676ba61.pth")])
def test_weights_that_cannot_be_had_or_are_damaged_are_named(monkeypatch, tmp_path, name, file):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=f"place {file} in {tmp_path}.* cannot be downloaded"):
        build_perceptual(name)
    if name == "lpips":
        assert build_perceptual("auto")[1] == "efficientnet"
    (tmp_path / "hub/checkpoints").mkdir(parents=True, exist_ok=True)
    (tmp_path / "hub/checkpoints" / file).write_bytes(b"half")
    with pytest.raises(UserError, match=f"{file} cannot be read: replace it"):
        build_perceptual(name)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"reconstruction": "l3"}, "l1, l2"),
        ({"perceptual": "vgg"}, "efficientnet"),
        ({"adversarial": "wasserstein"}, "non_saturating"),
        ({"adversarial_weight": -1.0}, "adversarial_weight"),
        ({"lecam_decay": 1.0}, "lecam_decay"),
        ({"r1_every": 0}, "r1_every"),
    ],
)
def test_bad_configurations(keys, said):
    with pytest.raises(ValueError, match=said):
        LossConfig(**keys)


def test_bad_discriminators():
    with pytest.raises(ValueError, match="blurpool"):
        DiscriminatorConfig(kind="stylegan")
    with pytest.raises(ValueError, match="at least 1"):
        DiscriminatorConfig(layers=0)
