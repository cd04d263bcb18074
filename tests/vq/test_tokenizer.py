import pytest
import torch
from torch import nn

from common.errors import UserError
from vq.discriminator import DiscriminatorConfig, PatchDiscriminator
from vq.loss import adaptive_weight, build_perceptual, hinge_discriminator_loss
from vq.quantizer import QuantizerConfig
from vq.tokenizer import Tokenizer, TokenizerConfig


def make(channels=1):
    torch.manual_seed(0)
    config = TokenizerConfig(width=8, quantizer=QuantizerConfig(codebook_size=16, kmeans_init=False))
    return Tokenizer(config, image_size=16, channels=channels).eval()


@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_ranges_and_round_trip(channels):
    tokenizer = make(channels)
    images = torch.rand(2, channels, 16, 16) * 2 - 1
    codes = tokenizer.encode(images)
    assert codes.shape == (2, 4, 4) and codes.dtype == torch.int64 and 0 <= codes.min() <= codes.max() < 16
    assert tokenizer.decode(codes).shape == images.shape and tokenizer.decode(codes).abs().max() <= 1
    quantized = tokenizer.quantizer(tokenizer.encoder(images))
    torch.testing.assert_close(tokenizer.quantizer.decode(quantized.codes), quantized.latents)


def test_eval_leaves_the_codebook_alone_and_train_moves_it():
    tokenizer = make()
    before = tokenizer.quantizer.quantize.codebook.clone()
    tokenizer.encode(torch.rand(2, 1, 16, 16))
    assert torch.equal(before, tokenizer.quantizer.quantize.codebook)
    tokenizer.train()(torch.rand(2, 1, 16, 16))
    assert not torch.equal(before, tokenizer.quantizer.quantize.codebook)


def test_saved_and_loaded_gives_the_same(tmp_path):
    tokenizer = make()
    tokenizer.save(tmp_path / "tokenizer", {"perceptual": "none"})
    again = Tokenizer.load(tmp_path / "tokenizer")
    images = torch.rand(2, 1, 16, 16)
    assert torch.equal(tokenizer.encode(images), again.encode(images))
    assert torch.equal(tokenizer.decode(tokenizer.encode(images)), again.decode(again.encode(images)))


def test_directories_that_do_not_fit(tmp_path):
    with pytest.raises(UserError, match="missing"):
        Tokenizer.load(tmp_path / "tokenizer")
    make().save(tmp_path / "tokenizer", {})
    config = tmp_path / "tokenizer" / "config.json"
    config.write_text(config.read_text().replace('"width": 8', '"width": 12', 1))
    with pytest.raises(UserError, match="shape"):
        Tokenizer.load(tmp_path / "tokenizer")


def test_hinge_by_hand():
    # relu(1 - 2) = 0, relu(1 - 0) = 1; relu(1 - 3) = 0, relu(1 + 1) = 2: half of (0.5 + 1)
    loss = hinge_discriminator_loss(torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0]))
    assert loss.item() == 0.75


def test_adaptive_weight_is_the_ratio_of_norms_and_clamped():
    torch.testing.assert_close(
        adaptive_weight(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])), torch.tensor(5 / 2.0001)
    )
    assert adaptive_weight(torch.tensor([1e9]), torch.tensor([0.0])).item() == 1e4


def test_discriminator_judges_patches():
    judge = PatchDiscriminator(DiscriminatorConfig(width=8, layers=2), channels=3)
    assert judge(torch.rand(2, 3, 32, 32)).shape == (2, 1, 8, 8)


def test_efficientnet_distance_is_zero_for_equal_pictures_and_has_finite_gradients():
    distance, name = build_perceptual("efficientnet")
    assert name == "efficientnet" and isinstance(distance, nn.Module)
    first = torch.zeros(2, 1, 32, 32, requires_grad=True)
    second = torch.rand(2, 1, 32, 32)
    assert bool((distance(second, second) == 0).all()) and bool((distance(first, second) > 0).all())
    distance(first, second).sum().backward()
    assert bool(torch.isfinite(first.grad).all())
    assert build_perceptual("none") == (None, "none")


def test_bad_configurations():
    with pytest.raises(ValueError, match="downsample"):
        TokenizerConfig(downsample=3)
    with pytest.raises(ValueError, match="multipliers"):
        TokenizerConfig(downsample=8)
    with pytest.raises(UserError, match="multiple"):
        Tokenizer(TokenizerConfig(), image_size=30, channels=1)


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
